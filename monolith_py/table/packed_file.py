"""Packed rows of a table in a file of their own, from which a replica starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.data.columns import Int64Array
from monolith_py.table.saving import snapshot_errors


def packed_file(directory: Path, name: str) -> Path:
    """Return the file of packed rows of the table `name` in `directory`."""
    return directory / f"{name}.rows"


def pack_snapshot(snapshot: Path, path: Path) -> int:
    """Write the rows of a table's snapshot to `path`, packed in the encoding of the table; return their number.

    Rows are read from the file, chunk by chunk: the table may change meanwhile.

    Raises:
        CheckpointError: the snapshot is absent or damaged, or the file cannot be written.
    """
    with snapshot_errors():
        return _core.pack_snapshot(str(snapshot), str(path))


class PackedFile:
    """A mapped file of packed rows. Its chunks are checked as they are read. `digest` is that of all rows, from its writer.

    >>> import tempfile
    >>> from monolith_py.table import EmbeddingTable, Sgd
    >>> table = EmbeddingTable(dim=4, optimizer=Sgd())
    >>> rows = table.find_or_insert(np.arange(100), now_s=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table.save(f"{folder}/table")
    ...     written = pack_snapshot(Path(folder, "table"), Path(folder, "rows"))
    ...     sum(len(fids) for fids, _ in PackedFile(Path(folder, "rows")).chunks())
    100
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            CheckpointError: it is absent, torn, damaged or of another version.
        """
        with snapshot_errors():
            self._core = _core.PackedRows(str(path))
        self.dim, self.encoding, self.digest = self._core.dim, self._core.encoding, self._core.digest

    def chunks(self) -> Iterator[tuple[Int64Array, npt.NDArray[np.uint8]]]:
        """Yield the fids int64 (n,) and packed rows uint8 (n, R) of each chunk: views of the file. All weights are finite.

        Raises:
            CheckpointError: a chunk is damaged, or a weight is NaN or infinite.
        """
        for index in range(self._core.num_chunks):
            with snapshot_errors():
                chunk = self._core.chunk(index)
            yield chunk
