"""A collisionless embedding table: fids in, rows and weights out, in batches.

Letters: n fids or rows of a call, D the table's dim, m evicted fids.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.errors import CheckpointError
from monolith_py.table.admission import EXACT_COUNT, Admission, MemoryBudget
from monolith_py.table.optimizers import Optimizer
from monolith_py.table.slices import Encoding, Initializer, Slice

NO_ROW = _core.NO_ROW

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
FloatArray = npt.NDArray[np.float32]

# The core's words for kinds of admission.
_ADMISSIONS = {"count": "count", "sketch": "sketch", "proportional": "proportional", "geometric": "geometric"}


@dataclass(frozen=True)
class TableDelta:
    """What a consumer has not been told yet."""

    ticket: int
    fids: Int64Array  # (n,) rows touched, each once
    weights: FloatArray  # (n, D) as they are now
    evicted: Int64Array  # (m,) fids whose rows are gone


@dataclass(frozen=True)
class EncodedDelta:
    """What a consumer has not been told yet, with packed rows."""

    ticket: int
    fids: Int64Array  # (n,) rows touched, each once
    rows: npt.NDArray[np.uint8]  # (n, R) as they are now: the slices one after the other, each as `monolith_py.sync` packs its encoding
    evicted: Int64Array  # (m,) fids whose rows are gone


@dataclass(frozen=True)
class Entries:
    """All n entries of an id map."""

    fids: Int64Array  # (n,)
    rows: UInt32Array  # (n,) NO_ROW: a candidate
    counts: npt.NDArray[np.uint16]  # (n,) sightings, 65,535 and more as that
    seen_s: Int64Array  # (n,) last seen, event time in seconds, in steps of a thousandth of the TTL


@dataclass(frozen=True)
class TableStats:
    """Counts of one table."""

    rows: int  # live rows
    candidates: int  # fids counted and not admitted yet
    admitted: int  # rows born since the table was made
    filtered: int  # look-ups of fids not admitted yet, since the table was made
    evicted: int  # rows evicted since the table was made, by TTL or budget
    freed: int  # rows that their rule brought to zero, since the table was made
    bytes: int  # memory of id map, rows and optimizer state
    id_map_capacity: int  # entries that the id map has room for


class EmbeddingTable:
    """Rows of float32 weights by 64-bit fid; every int64 is a fid, and two fids never share a row.

    One thread may write while others call `find` and `gather`. Time is event time in whole seconds.

    >>> from monolith_py.table import Sgd
    >>> table = EmbeddingTable(dim=4, optimizer=Sgd(lr=1.0), init_scale=0.0)
    >>> rows = table.find_or_insert(np.array([7, -1, 7]), now_s=0)
    >>> table.update(rows, np.ones((3, 4), np.float32))
    >>> table.gather(table.find(np.array([7, 8])))[:, 0].tolist()
    [-2.0, 0.0]
    """

    def __init__(
        self,
        dim: int,
        optimizer: Optimizer | None = None,
        *,
        slices: Sequence[Slice] = (),
        name: str = "table",
        initializer: Initializer = "uniform",
        init_scale: float = 0.01,
        admit_after: int = 1,
        admission: Admission = EXACT_COUNT,
        ttl_s: int | None = None,
        budget: MemoryBudget | None = None,
        seed: int = 0,
    ) -> None:
        """Make an empty table whose rows have one slice under `optimizer`, or the given `slices`, whose dims must add up to `dim`.

        A fid gets its row when `admission` says so (by default at its `admit_after`-th sighting), and loses it when it has not been seen
        for `ttl_s` seconds, or when `budget` asks for its memory.

        Raises:
            ValueError: `dim` is no positive multiple of 4 or not the slices' sum, `admit_after` not in 1..65535, `ttl_s` not positive, or
                neither or both of `optimizer` and `slices` are given.
        """
        if ttl_s is not None and ttl_s <= 0:
            raise ValueError(f"ttl_s must be > 0 or None, got {ttl_s!r}")
        if (optimizer is None) == (not slices):
            raise ValueError("a table must have either an optimizer or slices")
        if optimizer is not None:
            slices = [Slice("weights", dim, optimizer, initializer, init_scale)]
        names = [part.name for part in slices]
        if sum(part.dim for part in slices) != dim or len(set(names)) != len(names):
            raise ValueError(f"slices must have different names and dims that add up to {dim}, got {[(s.name, s.dim) for s in slices]}")
        self.name = name
        self._schedules = [(index, part.optimizer) for index, part in enumerate(slices) if callable(part.optimizer.lr)]
        self.core = _core.Table(
            [part.core() for part in slices],
            seed=seed,
            admission=_ADMISSIONS[admission.kind],
            admit_after=admit_after,
            sketch_bytes=admission.sketch_bytes if admission.kind == "sketch" else 0,
            sketch_window_s=admission.window_s if admission.kind == "sketch" else 0,
            ttl_s=ttl_s or 0,
            eviction=budget.eviction if budget else "none",
            budget_bytes=budget.bytes if budget else 0,
            half_life_s=budget.half_life_s if budget else 0,
        )

    def __len__(self) -> int:
        return len(self.core)

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        return self.core.dim

    @property
    def encoding(self) -> Encoding | None:
        """Return the encoding of whole rows in `drain_encoded`, None where its slices make no row of one encoding.

        Slices of the same fp32 or fp16 do; int8 and int4 begin each slice with a scale and a bias of its own.
        """
        first, *others = (part.encoding for part in self.core.slices)
        is_whole = not others or (first in ("fp32", "fp16") and set(others) == {first})
        return cast(Encoding, first) if is_whole else None

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

    def update(self, rows: UInt32Array, gradients: FloatArray) -> None:
        """Take one step of the optimizer for each distinct row, with the sum of its gradients: float32 (n, D). `NO_ROW` is skipped."""
        self.follow_schedules()
        self.core.update(rows, gradients)

    def set_lr(self, lr: float, part: str | None = None) -> None:
        """Set the learning rate of the steps to come, of one slice or of all, in place of a schedule.

        Raises:
            ValueError: no slice has this name.
        """
        names = [one.name for one in self.core.slices]
        if part is not None and part not in names:
            raise ValueError(f"part must be one of {names}, got {part!r}")
        for index, name in enumerate(names):
            if part in (None, name):
                self.core.set_lr(index, lr)
                self._schedules = [(at, optimizer) for at, optimizer in self._schedules if at != index]

    def follow_schedules(self) -> None:
        """Set the rates that follow a schedule to those of the next step; `update` does it by itself."""
        for index, optimizer in self._schedules:
            self.core.set_lr(index, optimizer.rate(self.core.num_updates))

    def evict(self, now_s: int, max_entries: int | None = None) -> Int64Array:
        """Let go of rows not seen for more than `ttl_s` seconds; return their fids, int64 (m,), sorted.

        Times are kept to a thousandth of `ttl_s`, in whole seconds: a row may stay for up to two of these longer, and goes no earlier.
        With `max_entries` the sweep looks at no more than so many, going on from where the last one ended.
        """
        return self.core.evict(now_s, max_entries or 0)

    def drain(self, consumer: str) -> TableDelta:
        """Hand out all that changed since the consumer's last acknowledged drain; the first drain hands out every row."""
        return TableDelta(*self.core.drain(consumer, False))

    def drain_encoded(self, consumer: str) -> EncodedDelta:
        """Do what `drain` does, with the rows packed as their slices' encodings say."""
        return EncodedDelta(*self.core.drain(consumer, True))

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

    def entries(self) -> Entries:
        """Return all that the id map holds, in no order: rows, and candidates that wait for one."""
        return Entries(*self.core.entries())

    def state(self, rows: UInt32Array) -> FloatArray:
        """Return the optimizer's state of each row, uint32 (n,) -> float32 (n, S), slices one after the other; zeros for `NO_ROW`."""
        return self.core.state(rows)

    def save(self, path: str | Path) -> None:
        """Write everything to one file, atomically: rows, optimizer state, admission counts, ages, pending drains.

        Raises:
            CheckpointError: the file cannot be written.
        """
        saving = self.start_saving(path)
        saving.finish()
        saving.commit()

    def start_saving(self, path: str | Path, *, increment: bool = False) -> TableSaving:
        """Begin a snapshot that is written while the table goes on changing.

        An `increment` holds what has changed since the last snapshot that was committed with `track=True`. A snapshot that fails, or is
        given up, ends that: the next one is no increment.

        Raises:
            CheckpointError: the file cannot be written.
            ValueError: an increment is asked for, and changes are not tracked since a snapshot; or another snapshot is under way.
        """
        return TableSaving(self, Path(path), increment=increment)

    def restore_from(self, path: str | Path, share: tuple[int, int] = (0, 1)) -> None:
        """Fill this table, which must be empty, from a snapshot of one of equal settings; bring it on where it is an increment on it.

        Learning rates, budget and encodings may differ. `share` (k, n) takes the k-th of n shares of the fids, so that any number of
        tables, or of processes, can share one snapshot out.

        Raises:
            CheckpointError: the file is absent, torn, damaged, of a table with other settings, or does not follow what the table holds;
                the message names which.
            ValueError: `share` is not (k, n) with k < n <= 256.
        """
        with _snapshot_errors():
            self.core.restore(str(path), *share)

    @classmethod
    def restore(cls, path: str | Path, *increments: str | Path, share: tuple[int, int] = (0, 1)) -> EmbeddingTable:
        """Return the table that was saved at `path`, with the settings it had, named after the file, and brought on by `increments`.

        A schedule stays at the rate that it had; `set_lr` sets others.

        Raises:
            CheckpointError: a file is absent, torn or damaged, or does not follow the one before.
        """
        table = cls.__new__(cls)
        with _snapshot_errors():
            table.core = _core.restore_table(str(path), *share)
        table.name = Path(path).stem
        table._schedules = []
        for increment in increments:
            table.restore_from(increment, share)
        return table


class TableSaving:
    """A snapshot of a table under way: `copy` until it returns False, while others use the table; then `finish`, then `commit`.

    >>> import tempfile
    >>> from monolith_py.table import Sgd
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

    def __init__(self, table: EmbeddingTable, path: Path, *, increment: bool) -> None:
        # Increments name the snapshot before them; ids only have to differ.
        number = secrets.randbits(62) + 1
        parent = table.core.snapshot_id if increment else 0
        if increment and not parent:
            raise ValueError("an increment needs a snapshot before it, got a table without one")
        with _snapshot_errors():
            self._core = table.core.start_saving(str(path), number, parent)

    def copy(self, max_rows: int = 20_000) -> bool:
        """Copy and write a part; return False once no more than `max_rows` are left, which `finish` copies while the table stands still."""
        with _snapshot_errors():
            return self._core.copy(max_rows)

    def finish(self) -> None:
        """Copy what is left: the snapshot is of this moment. The table may change again when this returns."""
        with _snapshot_errors():
            self._core.finish()

    def cancel(self) -> None:
        """Give the snapshot up, unless it is committed: nothing of it stays, and no increment can follow."""
        self._core.cancel()

    def commit(self, *, track: bool = False) -> None:
        """Write the rest and give the file its name; with `track` the table goes on noting what changes, for an increment."""
        with _snapshot_errors():
            self._core.commit(track)


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
