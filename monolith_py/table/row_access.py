"""Rows by fid: put into a table, taken out of it, read in chunks.

Letters: n fids of a call, D the table's dim, S floats of optimizer state in a row, m fids that have a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy.typing as npt

from monolith_py import _core
from monolith_py.errors import TableFull
from monolith_py.table.arguments import fids_of, matrix_of, number, seconds, whole
from monolith_py.table.views import Int64Array, SliceForm, TableRows

# Rows of a chunk: 8 MB of weights and state at dim 16 with Adagrad.
CHUNK_ROWS = 65_536


class RowAccess:
    """Rows of an `EmbeddingTable` by fid. All methods are for the thread that writes; `read` and `chunks` for others, too."""

    core: _core.Table
    name: str
    forms: tuple[SliceForm, ...]

    @property
    def state_width(self) -> int:
        """Return S, the floats of optimizer state in a row."""
        return self.core.state_width

    def assign(self, fids: npt.ArrayLike, weights: npt.ArrayLike, now_s: float, state: npt.ArrayLike | None = None) -> None:
        """Set the row of each fid, int64 (n,), to `weights`, float32 (n, D), and its optimizer state to `state`, float32 (n, S).

        Fids without a row get one, whatever the admission; without `state` their state starts anew, and that of other rows stays. Each
        fid is sighted at event time `now_s`. Of a fid given twice the last row counts.

        Raises:
            TableFull: the table would have more than 4,294,967,294 rows; it is unchanged.
            ValueError: a weight or state is NaN or infinite, or of another type or shape; the table is unchanged.
        """
        keys, rows = fids_of(fids), matrix_of("weights", weights, "D")
        states = None if state is None else matrix_of("state", state, "S")
        with _full(self.name):
            self.core.assign(keys, rows, seconds(now_s), states)

    def put(self, rows: TableRows, now_s: float) -> None:
        """Set rows that `read` or `chunks` has returned: weights, counts, times, and state if the table has the same `forms`.

        `now_s` is the table's event time afterwards: at least the newest of the times.

        Raises:
            TableFull: the table would have more than 4,294,967,294 rows; it is unchanged.
            ValueError: the rows have another dim, or a value is NaN or infinite; the table is unchanged.
        """
        state = rows.state if rows.forms == self.forms else None
        with _full(self.name):
            self.core.assign(rows.fids, rows.weights, seconds(now_s), state, rows.counts, rows.seen_s)

    def remove(self, fids: npt.ArrayLike) -> Int64Array:
        """Remove the rows and counts of `fids`, int64 (n,); return the fids that had rows, int64 (m,), sorted.

        Each consumer gets their evictions in its next drain. A fid seen again later starts anew. The counts of an admission by sketch stay:
        they name no fid.
        """
        return self.core.remove(fids_of(fids))

    def clear(self) -> None:
        """Remove all rows and counts; each consumer gets their evictions in its next drain. Learning rates and step counts stay."""
        self.core.clear()

    @property
    def used_bytes(self) -> int:
        """Return the memory of the rows in use, with state and entries of the id map: what a budget counts."""
        return int(self.core.used_bytes)

    @property
    def num_free_rows(self) -> int:
        """Return the number of rows whose memory is free for new ones."""
        return self.core.num_free_rows

    def shrink(self, max_bytes: float) -> int:
        """Evict rows of least priority until the others take at most `max_bytes`; return their number. Their memory is used again.

        The order is that of the budget; without one the least recently seen rows go first.

        Raises:
            ValueError: `max_bytes` is negative.
        """
        if not number("max_bytes", max_bytes) >= 0:
            raise ValueError(f"max_bytes must be >= 0, got {max_bytes!r}")
        before = len(self.core)
        self.core.shrink(max_bytes)
        return before - len(self.core)

    def fids(self) -> Int64Array:
        """Return all fids that have a row, int64 (m,), sorted."""
        return self.core.row_fids()

    def read(self, fids: npt.ArrayLike) -> TableRows:
        """Return the rows of those of `fids`, int64 (n,), that have one, in their order, as they are at one moment."""
        return TableRows(*self.core.read(fids_of(fids)), self.forms)

    def chunks(self, max_rows: int = CHUNK_ROWS) -> Iterator[TableRows]:
        """Yield all rows in the order of their fids, up to `max_rows` at once: beside a chunk, memory is 8 bytes a row.

        Each chunk is of the moment it is read: rows inserted meanwhile are left out, and so are those evicted.

        >>> import numpy as np
        >>> from monolith_py.table import EmbeddingTable, Sgd
        >>> table = EmbeddingTable(dim=4, optimizer=Sgd())
        >>> table.assign([7, -3], np.ones((2, 4), np.float32), now_s=0)
        >>> [chunk.fids.tolist() for chunk in table.chunks(max_rows=1)]
        [[-3], [7]]
        """
        if whole("max_rows", max_rows) < 1:
            raise ValueError(f"max_rows must be >= 1, got {max_rows!r}")
        fids = self.fids()
        for first in range(0, len(fids), max_rows):
            yield self.read(fids[first : first + max_rows])


@contextmanager
def _full(name: str) -> Iterator[None]:
    """Raise TableFull for that of the core."""
    try:
        yield
    except _core.TableFull as error:
        raise TableFull(f"table {name!r}: {error}") from None
