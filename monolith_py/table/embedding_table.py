"""A collisionless embedding table: fids in, rows and weights out, in batches.

Letters: n fids or rows of a call, D the table's dim, m evicted fids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.errors import CheckpointError
from monolith_py.table.optimizers import Optimizer

NO_ROW = _core.NO_ROW

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TableDelta:
    """What a consumer has not been told yet."""

    ticket: int
    fids: Int64Array  # (n,) rows touched, each once
    weights: FloatArray  # (n, D) as they are now
    evicted: Int64Array  # (m,) fids whose rows are gone


@dataclass(frozen=True)
class TableStats:
    """Counts of one table."""

    rows: int  # live rows
    candidates: int  # fids counted and not admitted yet
    admitted: int  # rows born since the table was made
    filtered: int  # look-ups of fids not admitted yet, since the table was made
    evicted: int  # rows evicted since the table was made
    bytes: int  # memory of id map, rows and optimizer state
    id_map_capacity: int  # entries that the id map has room for


class EmbeddingTable:
    """Rows of float32 weights by 64-bit fid; every int64 is a fid, and two fids never share a row.

    One thread may write while others call `find` and `gather`. Time is event time in whole seconds.

    >>> from monolith_py.table import Sgd
    >>> table = EmbeddingTable(dim=4, optimizer=Sgd(lr=1.0), init_scale=0.0)
    >>> rows = table.find_or_insert(np.array([7, -1, 7]), now_s=0)
    >>> table.update(rows, np.ones((3, 4), np.float32), now_s=0)
    >>> table.gather(table.find(np.array([7, 8])))[:, 0].tolist()
    [-2.0, 0.0]
    """

    def __init__(
        self,
        dim: int,
        optimizer: Optimizer,
        *,
        name: str = "table",
        init_scale: float = 0.01,
        admit_after: int = 1,
        ttl_s: int | None = None,
        seed: int = 0,
    ) -> None:
        """Make an empty table; a row is born at its fid's `admit_after`-th sighting, uniform in [-init_scale, init_scale).

        Raises:
            ValueError: `dim` is no positive multiple of 4, `admit_after` not in 1..65535, or `ttl_s` not positive.
        """
        if ttl_s is not None and ttl_s <= 0:
            raise ValueError(f"ttl_s must be > 0 or None, got {ttl_s!r}")
        self.name = name
        self.core = _core.Table(dim, optimizer.kind, optimizer.hyper(), init_scale, seed, admit_after, ttl_s or 0)

    def __len__(self) -> int:
        return len(self.core)

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        return self.core.dim

    def find(self, fids: npt.ArrayLike) -> UInt32Array:
        """Return the row of each fid, int64 (n,) -> uint32 (n,); `NO_ROW` where there is none."""
        keys = _fids(fids)
        rows = np.empty(len(keys), np.uint32)
        self.core.find(keys, rows)
        return rows

    def find_or_insert(self, fids: npt.ArrayLike, now_s: int) -> UInt32Array:
        """Return the row of each fid, int64 (n,) -> uint32 (n,), counting each sighting; `NO_ROW` while a fid is not admitted."""
        keys = _fids(fids)
        rows = np.empty(len(keys), np.uint32)
        self.core.find_or_insert(keys, now_s, rows)
        return rows

    def gather(self, rows: UInt32Array) -> FloatArray:
        """Return the weights of each row, uint32 (n,) -> float32 (n, D); zeros for `NO_ROW`."""
        weights = np.empty((len(rows), self.dim), np.float32)
        self.core.gather(rows, weights)
        return weights

    def update(self, rows: UInt32Array, gradients: FloatArray, now_s: int) -> None:
        """Take one step of the optimizer for each distinct row, with the sum of its gradients: float32 (n, D). `NO_ROW` is skipped."""
        self.core.update(rows, gradients, now_s)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        self.core.set_lr(lr)

    def evict(self, now_s: int) -> Int64Array:
        """Let go of rows not seen for more than `ttl_s` seconds; return their fids, int64 (m,), sorted.

        Times are kept to a thousandth of `ttl_s`, in whole seconds: a row may stay for up to two of these longer, and goes no earlier.
        """
        return self.core.evict(now_s)

    def drain(self, consumer: str) -> TableDelta:
        """Hand out all that changed since the consumer's last acknowledged drain; the first drain hands out every row."""
        return TableDelta(*self.core.drain(consumer))

    def ack(self, consumer: str, ticket: int) -> None:
        """Acknowledge a drain: what it held does not come again.

        Raises:
            ValueError: the ticket is not that of the consumer's last drain.
        """
        self.core.ack(consumer, ticket)

    def export_rows(self) -> tuple[Int64Array, FloatArray]:
        """Return all fids, int64 (n,), sorted, and their weights, float32 (n, D)."""
        return self.core.export_rows()

    def stats(self) -> TableStats:
        """Return the table's counts."""
        return TableStats(**self.core.stats())

    def save(self, path: str | Path) -> None:
        """Write everything to one file, atomically: rows, optimizer state, admission counts, ages, pending drains.

        Raises:
            CheckpointError: the file cannot be written.
        """
        with _snapshot_errors():
            self.core.save(str(path))

    def restore_from(self, path: str | Path) -> None:
        """Fill this table, which must be empty, from a saved one of equal settings; the optimizer's rates may differ.

        Raises:
            CheckpointError: the file is absent, torn, damaged, or of a table with other settings; the message names which.
        """
        assert len(self) == 0
        with _snapshot_errors():
            self.core.restore(str(path))

    @classmethod
    def restore(cls, path: str | Path) -> EmbeddingTable:
        """Return the table that was saved at `path`, with the settings it had; it is named after the file.

        Raises:
            CheckpointError: the file is absent, torn or damaged.
        """
        table = cls.__new__(cls)
        with _snapshot_errors():
            table.core = _core.restore_table(str(path))
        table.name = Path(path).stem
        return table


@contextmanager
def _snapshot_errors() -> Iterator[None]:
    try:
        yield
    except _core.SnapshotError as error:
        raise CheckpointError(str(error)) from None


def _fids(fids: npt.ArrayLike) -> Int64Array:
    keys = np.ascontiguousarray(fids)
    if keys.dtype != np.int64 or keys.ndim != 1:
        if keys.size or keys.ndim != 1:
            raise ValueError(f"fids must be int64 (n,), got {keys.dtype} {keys.shape}")
        keys = keys.astype(np.int64)
    return keys
