"""Snapshots of a table: their file name, their writing while the table changes, their errors."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from monolith_py import _core
from monolith_py.errors import CheckpointError


def table_file(directory: Path, name: str) -> Path:
    """Return the snapshot file of the table `name` in `directory`."""
    return directory / f"{name}.table"


def table_parts(file: Path) -> list[Path]:
    """Return the snapshot file of a table and those of its increments, `<file>.0001` and so on, in order."""
    return [file, *sorted(file.parent.glob(f"{escape(file.name)}.[0-9][0-9][0-9][0-9]"))]


class TableSaving:
    """A snapshot in progress: call `copy` until it returns False while others use the table, then `finish`, then `commit`.

    >>> import tempfile
    >>> import numpy as np
    >>> from monolith_py.table import EmbeddingTable, Sgd
    >>> table = EmbeddingTable(dim=4, optimizer=Sgd())
    >>> rows = table.find_or_insert(np.arange(100), now_s=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saving = table.start_saving(f"{folder}/table")
    ...     while saving.copy():
    ...         rows = table.find_or_insert(np.arange(100), now_s=1)
    ...     saving.finish()
    ...     saving.commit()
    ...     len(EmbeddingTable.restore(f"{folder}/table"))
    100
    """

    def __init__(self, table: _core.Table, path: Path, *, increment: bool) -> None:
        """Start a snapshot of `table`; `EmbeddingTable.start_saving` documents the arguments and errors."""
        # An increment names its parent snapshot by this number; numbers only have to differ.
        number = secrets.randbits(62) + 1
        parent = table.snapshot_id if increment else 0
        if increment and not parent:
            raise ValueError("an increment needs a snapshot before it, got a table without one")
        with snapshot_errors():
            self._core = table.start_saving(str(path), number, parent)

    def copy(self, max_rows: int = 20_000) -> bool:
        """Copy and write some rows; return False once at most `max_rows` are left for `finish`.

        Raises:
            CheckpointError: the file cannot be written.
        """
        with snapshot_errors():
            return self._core.copy(max_rows)

    def finish(self) -> None:
        """Copy the remaining rows: the snapshot holds the table at this moment. The table must not change until this returns.

        Raises:
            CheckpointError: the file cannot be written.
        """
        with snapshot_errors():
            self._core.finish()

    def cancel(self) -> None:
        """Delete the snapshot unless it is committed. The next snapshot cannot be an increment."""
        self._core.cancel()

    def commit(self, *, track: bool = False) -> None:
        """Write the remaining bytes and rename the file; `track` records later changes, for an increment.

        Raises:
            CheckpointError: the file cannot be written.
        """
        with snapshot_errors():
            self._core.commit(track)


@contextmanager
def snapshot_errors() -> Iterator[None]:
    """Raise CheckpointError for a SnapshotError of the core."""
    try:
        yield
    except _core.SnapshotError as error:
        raise CheckpointError(str(error)) from None
