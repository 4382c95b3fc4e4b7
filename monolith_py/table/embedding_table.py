"""A collisionless embedding table: batches of fids in, rows and weights out.

Letters: n fids or rows of a call, D the table's dim, S floats of optimizer state in a row, m evicted fids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.errors import PoisonedBatch, TableFull
from monolith_py.table.admission import EXACT_COUNT, NO_BUDGET, Admission, MemoryBudget
from monolith_py.table.arguments import fids_of, gradients_of, number, rows_of, seconds, whole
from monolith_py.table.optimizers import Optimizer
from monolith_py.table.row_access import RowAccess
from monolith_py.table.saving import TableSaving, snapshot_errors
from monolith_py.table.slices import Encoding, Initializer, Slice, core_slices
from monolith_py.table.table_settings import read_settings
from monolith_py.table.views import EncodedDelta, Entries, FloatArray, Int64Array, SliceForm, TableDelta, TableStats, UInt32Array

NO_ROW = _core.NO_ROW


class EmbeddingTable(RowAccess):
    """Rows of float32 weights by 64-bit fid; every int64 is a valid fid, and two fids never share a row.

    One thread may write while others call `lookup`. `find` and `gather` are safe beside it, too, but a row found may be another
    fid's when it is gathered. Times are event time in whole seconds.

    >>> from monolith_py.table import Sgd
    >>> table = EmbeddingTable(dim=4, optimizer=Sgd(lr=1.0), init_scale=0.0)
    >>> rows = table.find_or_insert(np.array([7, -1, 7]), now_s=0)
    >>> table.update(rows, np.ones((3, 4), np.float32))
    >>> table.gather(table.find(np.array([7, 8])))[:, 0].tolist()
    [-2.0, 0.0]
    """

    # More than six parameters: these are the table's settings, keyword-only and flat, as in `Feature` and in a job's TOML.
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
        """Make an empty table. A row has one slice, updated by `optimizer`, or the given `slices`, whose dims must sum to `dim`.

        `admission` decides when a fid gets its row, by default at its `admit_after`-th sighting. A row is evicted `ttl_s` seconds after
        its last sighting, or earlier to keep the `budget`. Start values are a pure function of (`seed`, fid).

        Raises:
            ValueError: `dim` is not a positive multiple of 4 or not the sum of the slices' dims, two slices have the same name,
                `admit_after` is not in 1..65535, `ttl_s` is not positive, or not exactly one of `optimizer` and `slices` is given.
        """
        if ttl_s is not None and whole("ttl_s", ttl_s) <= 0:
            raise ValueError(f"ttl_s must be > 0 or None, got {ttl_s!r}")
        if (optimizer is None) == (not slices):
            raise ValueError("a table must have either an optimizer or slices")
        if optimizer is not None:
            slices = [Slice("weights", dim, optimizer, initializer, init_scale)]
        self.name = name
        self.forms = tuple(SliceForm(part.name, int(part.dim), part.optimizer.kind) for part in slices)
        self._schedules = [(index, part.optimizer) for index, part in enumerate(slices) if callable(part.optimizer.lr)]
        self.core = _core.Table(
            core_slices(slices, whole("dim", dim)),
            seed=whole("seed", seed) % 2**64,
            admit_after=whole("admit_after", admit_after),
            ttl_s=int(ttl_s or 0),
            **admission.core_settings(),
            **(budget.core_settings() if budget else NO_BUDGET),
        )

    def __len__(self) -> int:
        return len(self.core)

    @property
    def dim(self) -> int:
        """Return the width of a row."""
        return self.core.dim

    @property
    def encoding(self) -> Encoding | None:
        """Return the encoding of whole rows in `drain_encoded`, None for slices that form no row of one encoding.

        Slices of equal fp32 or fp16 form one; each int8 or int4 slice starts with its own scale and bias.
        """
        first, *others = (part.encoding for part in self.core.slices)
        is_whole = not others or (first in ("fp32", "fp16") and set(others) == {first})
        return cast(Encoding, first) if is_whole else None

    def find(self, fids: npt.ArrayLike) -> UInt32Array:
        """Return the row of each fid, int64 (n,) -> uint32 (n,); `NO_ROW` for a fid without a row."""
        keys = fids_of(fids)
        rows = np.empty(len(keys), np.uint32)
        self.core.find(keys, rows)
        return rows

    def lookup(self, fids: npt.ArrayLike) -> FloatArray:
        """Return the weights of each fid, int64 (n,) -> float32 (n, D), zeros without a row; safe beside a thread that evicts."""
        keys = fids_of(fids)
        weights = np.empty((len(keys), self.dim), np.float32)
        self.core.lookup(keys, weights)
        return weights

    def find_or_insert(self, fids: npt.ArrayLike, now_s: float) -> UInt32Array:
        """Count a sighting of each fid and return its row, int64 (n,) -> uint32 (n,); `NO_ROW` for a fid that is not yet admitted.

        Raises:
            TableFull: the table would have more than 4,294,967,294 rows; it is unchanged.
        """
        keys = fids_of(fids)
        rows = np.empty(len(keys), np.uint32)
        try:
            self.core.find_or_insert(keys, seconds(now_s), rows)
        except _core.TableFull as error:
            raise TableFull(f"table {self.name!r}: {error}") from None
        return rows

    def gather(self, rows: UInt32Array) -> FloatArray:
        """Return the weights of each row, uint32 (n,) -> float32 (n, D); zeros for `NO_ROW`."""
        places = rows_of(rows)
        weights = np.empty((len(places), self.dim), np.float32)
        self.core.gather(places, weights)
        return weights

    def update(self, rows: UInt32Array, gradients: FloatArray, fids: npt.ArrayLike | None = None) -> None:
        """Take one optimizer step for each distinct row with the sum of its gradients, float32 (n, D); skip `NO_ROW`.

        With `fids`, int64 (n,), rows that no longer belong to their fid are skipped, too: rows found before a later eviction or
        insertion, which may have freed them.

        Raises:
            PoisonedBatch: a gradient is NaN, infinite, or 2^48 or more; no row was changed.
        """
        self.follow_schedules()
        try:
            self.core.update(rows_of(rows), gradients_of(gradients), None if fids is None else fids_of(fids))
        except _core.NotFinite as error:
            raise PoisonedBatch(str(error)) from None

    def set_lr(self, lr: float, part: str | None = None) -> None:
        """Set the learning rate of all slices, or of the slice named `part`; it replaces a schedule.

        Raises:
            ValueError: no slice has this name.
        """
        names = [one.name for one in self.core.slices]
        if part is not None and part not in names:
            raise ValueError(f"part must be one of {names}, got {part!r}")
        for index, name in enumerate(names):
            if part in (None, name):
                self.core.set_lr(index, number("lr", lr))
                self._schedules = [(at, optimizer) for at, optimizer in self._schedules if at != index]

    def follow_schedules(self) -> None:
        """Set the learning rate of each slice with a schedule to that of the next step. `update` calls this."""
        for index, optimizer in self._schedules:
            self.core.set_lr(index, optimizer.rate(self.core.num_updates))

    def evict(self, now_s: float, max_entries: int | None = None) -> Int64Array:
        """Evict rows last seen more than `ttl_s` seconds before `now_s`; return their fids, int64 (m,), sorted.

        Times of sightings are rounded down to a thousandth of `ttl_s`, in whole seconds: a row may be evicted up to two of these steps
        late, never early. With `max_entries` a call scans at most this many entries of the id map and continues where the last one ended.
        """
        if max_entries is not None and whole("max_entries", max_entries) < 1:
            raise ValueError(f"max_entries must be >= 1 or None, got {max_entries!r}")
        return self.core.evict(seconds(now_s), max_entries or 0)

    def drain(self, consumer: str) -> TableDelta:
        """Return all changes since the last acknowledged drain of `consumer`; its first drain returns every row."""
        ticket, fids, weights, evicted, _ = self.core.drain(consumer, False)
        return TableDelta(ticket, fids, weights, evicted)

    def drain_encoded(self, consumer: str) -> EncodedDelta:
        """Return the same as `drain`, with rows packed in the encodings of their slices, and the digest of all rows.

        The first one computes the digest of every row and keeps 8 bytes a row of it, so that later ones look at changed rows only.
        """
        return EncodedDelta(*self.core.drain(consumer, True))

    def touch(self, consumer: str, fids: npt.ArrayLike) -> None:
        """Note `fids`, int64 (n,), as changed for `consumer`: its next drain returns their rows as they are, or evictions without a row."""
        self.core.touch(consumer, fids_of(fids))

    def ack(self, consumer: str, ticket: int) -> None:
        """Acknowledge a drain: its changes are not returned again.

        Raises:
            ValueError: the ticket is not that of the consumer's last drain.
        """
        self.core.ack(consumer, ticket)

    def consumers(self) -> dict[str, int]:
        """Return each consumer with the number of changes that wait for it. They take memory until it drains and acknowledges."""
        return self.core.waiting()

    def forget(self, consumer: str) -> None:
        """Forget a consumer that will not return; its next drain would return every row.

        Raises:
            ValueError: no consumer has this name.
        """
        if not self.core.forget(consumer):
            raise ValueError(f"consumer must be one of {sorted(self.consumers())}, got {consumer!r}")

    def export_rows(self) -> tuple[Int64Array, FloatArray]:
        """Return all fids, int64 (n,), sorted, and their weights, float32 (n, D)."""
        return self.core.export_rows()

    def stats(self) -> TableStats:
        """Return the table's counts."""
        return TableStats(**self.core.stats())

    def entries(self) -> Entries:
        """Return all entries of the id map: rows and candidates."""
        return Entries(*self.core.entries())

    def state(self, rows: UInt32Array) -> FloatArray:
        """Return the optimizer state of each row, uint32 (n,) -> float32 (n, S), slice after slice; zeros for `NO_ROW`."""
        return self.core.state(rows_of(rows))

    def save(self, path: str | Path) -> None:
        """Write a snapshot to one file, atomically: rows, optimizer state, admission counts, ages, pending drains.

        Raises:
            CheckpointError: the file cannot be written.
        """
        saving = self.start_saving(path)
        saving.finish()
        saving.commit()

    def start_saving(self, path: str | Path, *, increment: bool = False) -> TableSaving:
        """Start a snapshot that is written while the table changes.

        An `increment` holds the changes since the last snapshot committed with `track=True`. After a failed or cancelled snapshot the
        next one cannot be an increment.

        Raises:
            CheckpointError: the file cannot be written.
            ValueError: changes are not tracked since a snapshot, or another snapshot is in progress.
        """
        return TableSaving(self.core, Path(path), increment=increment)

    def restore_from(self, path: str | Path, share: tuple[int, int] = (0, 1)) -> None:
        """Restore this table from a snapshot of equal layout: an empty table from a base, its parent's content from an increment.

        Slices must be equal in names and dims; all other settings may differ. The state of another optimizer starts anew. Times of
        sightings keep the resolution of the saved table: a thousandth of its `ttl_s`. `share` (k, n) restores the k-th of n shares of
        the fids, so that n tables, also of several processes, can divide one snapshot.

        Raises:
            CheckpointError: the file is absent, torn, damaged, of a table with other settings, or an increment on another snapshot.
            ValueError: `share` is not (k, n) with k < n <= 256.
        """
        with snapshot_errors():
            self.core.restore(str(path), *share)

    @classmethod
    def restore(cls, path: str | Path, *increments: str | Path, share: tuple[int, int] = (0, 1)) -> EmbeddingTable:
        """Return a table with the settings and rows of the snapshot at `path`, then of `increments`; its name is that of the file.

        Learning rates are those of the last file. One that followed a schedule stays at its last value; `set_lr` sets another.

        Raises:
            CheckpointError: a file is absent, torn or damaged, or an increment does not follow the snapshot before it.
        """
        table = cls.__new__(cls)
        with snapshot_errors():
            table.core = _core.restore_table(str(path), *share)
        table.name = Path(path).stem
        table._schedules = []
        for increment in increments:
            table.restore_from(increment, share)
        parts = read_settings([path, *increments][-1]).slices
        table.forms = tuple(SliceForm(part.name, part.dim, part.optimizer) for part in parts)
        for index, part in enumerate(parts):
            table.core.set_lr(index, part.hyperparameters["lr"])
        return table
