"""One publication: the changes drained at one moment, cut into deltas, with the marks of their training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from monolith_py.errors import ModelNotFinite
from monolith_py.sync.delta import Delta, StepMark, encode_delta
from monolith_py.sync.dense.state import DenseState
from monolith_py.sync.dense.update import DenseUpdate, full_update, next_update
from monolith_py.sync.digest import DenseDigest, ModelDigest, digest_tables
from monolith_py.sync.generation import Generation
from monolith_py.sync.rows import RowEncoding, check_rows
from monolith_py.table import EncodedDelta

# Beyond this number, marks are merged in pairs at the older time of each: no row seems fresher than it is.
_MAX_MARKS = 4096
# Most bytes of rows and fids in one delta: half of what Kafka takes in a record.
_DELTA_BYTES, _FID_BYTES = 8 << 20, 8


class StepMarks:
    """Times of training steps with the number of rows they updated, at most `max_marks`.

    >>> marks = StepMarks()
    >>> marks.add(5, 10)
    >>> marks.add(5, 1)
    >>> marks.take()
    (StepMark(time_ms=5, num_rows=11, event_ms=0),)
    """

    def __init__(self, max_marks: int = _MAX_MARKS) -> None:
        self._max_marks = max_marks
        self._marks: list[StepMark] = []

    def add(self, time_ms: int, num_rows: int, event_ms: int = 0) -> None:
        """Note a step; a step without rows is left out. `event_ms`: see `StepMark`."""
        if num_rows == 0:
            return
        if self._marks and self._marks[-1].time_ms == time_ms:
            self._marks[-1] = _merged(self._marks[-1], StepMark(time_ms, num_rows, event_ms))
        else:
            self._marks.append(StepMark(time_ms, num_rows, event_ms))
        if len(self._marks) > self._max_marks:
            pairs = zip(self._marks[::2], [*self._marks[1::2], StepMark(0, 0)], strict=False)
            self._marks = [_merged(older, newer) for older, newer in pairs]

    def take(self) -> tuple[StepMark, ...]:
        """Return all marks, oldest first, and remove them."""
        marks, self._marks = tuple(self._marks), []
        return marks


def _merged(older: StepMark, newer: StepMark) -> StepMark:
    """Return a mark for the rows of both."""
    events_ms = [mark.event_ms for mark in (older, newer) if mark.event_ms]
    return StepMark(older.time_ms, older.num_rows + newer.num_rows, min(events_ms, default=0))


@dataclass(frozen=True)
class DrainedTable:
    """One drain of one table."""

    table: str
    dim: int
    encoding: RowEncoding
    delta: EncodedDelta

    def rows_of_a_delta(self, most: int) -> int:
        """Return the number of rows, and of evictions, in one delta: `most`, fewer if they are wide."""
        row_bytes = self.delta.rows.shape[1] if len(self.delta.rows) else 0
        return max(1, min(most, _DELTA_BYTES // (row_bytes + 2 * _FID_BYTES)))

    def num_deltas(self, rows_per_delta: int) -> int:
        """Return the number of deltas that hold the rows and evictions."""
        return -(-max(len(self.delta.fids), len(self.delta.evicted)) // self.rows_of_a_delta(rows_per_delta))


@dataclass(frozen=True)
class DensePart:
    """Dense state captured for one publication. The worker decides between a full and an incremental update when it encodes."""

    base: DenseState | None  # state of the publication before, None at the first of a generation
    state: DenseState
    has_learnt: bool  # a training step since `base`
    encoding: RowEncoding
    asked: Callable[[], bool]  # whether a replica asked for a full state; it may read the log, so only the worker calls it

    def update(self) -> DenseUpdate | None:
        """Return the update to publish, None if replicas need none.

        Raises:
            ModelNotFinite: a weight is NaN or infinite.
        """
        asked = self.asked()
        if self.base is None or asked:
            return full_update(self.state, self.encoding)
        return next_update(self.base, self.state, self.encoding) if self.has_learnt else None

    @property
    def digest(self) -> DenseDigest:
        """Return the digest of the state.

        Raises:
            ModelNotFinite: a weight is NaN or infinite.
        """
        return DenseDigest.of(self.state, self.encoding)


@dataclass(frozen=True)
class Publication:
    """Deltas of one generation from `first_seq` on: one for the dense state if it is due, then the rows of each table.

    If the dense state needs no update, its delta is empty and shows only that the trainer runs, as does that of a heartbeat. The last delta
    carries the step marks and the digest: once it is applied, all rows are servable. The first delta of the generation carries its parent.
    """

    generation: Generation
    first_seq: int
    watermark_ms: int
    published_ms: int
    dense_part: DensePart | None  # None: not due
    drained: Sequence[DrainedTable]
    steps: tuple[StepMark, ...]
    encoding: RowEncoding  # of most tables
    rows_per_delta: int
    is_heartbeat: bool = False  # due although nothing changed

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to publish."""
        return not (self._has_head or self.num_rows or self.num_evicted)

    @property
    def num_rows(self) -> int:
        """Return the number of touched rows, over all tables."""
        return sum(len(part.delta.fids) for part in self.drained)

    @property
    def num_evicted(self) -> int:
        """Return the number of evicted fids, over all tables."""
        return sum(len(part.delta.evicted) for part in self.drained)

    @property
    def num_deltas(self) -> int:
        """Return the number of deltas."""
        return self._has_head + sum(part.num_deltas(self.rows_per_delta) for part in self.drained)

    @property
    def num_bytes(self) -> int:
        """Return the size of all encoded deltas."""
        return sum(map(len, self._values))

    def values(self) -> list[bytes]:
        """Return the deltas as bytes, the same at each call. The first call encodes them and may read the log.

        Raises:
            ModelNotFinite: a weight is NaN or infinite; the message names the table.
        """
        return self._values

    @cached_property
    def dense(self) -> DenseUpdate | None:
        """Return the update of the dense parameters, the same at each call. The first call may read the log."""
        return self.dense_part.update() if self.dense_part else None

    @cached_property
    def digest(self) -> ModelDigest:
        """Return the digest of the trainer's state at the drain."""
        rows = digest_tables({part.table: part.delta.digest for part in self.drained})
        others = {part.table: part.encoding for part in self.drained if part.encoding is not self.encoding}
        return ModelDigest(rows, self.encoding, self.dense_part.digest if self.dense_part else None, others)

    @property
    def _has_head(self) -> bool:
        """Return whether the first delta is of no table."""
        return self.dense_part is not None or (self.is_heartbeat and not (self.num_rows or self.num_evicted))

    @cached_property
    def _values(self) -> list[bytes]:
        generation = self.generation
        head = Delta(generation.number, self.first_seq, self.watermark_ms, self.published_ms, trainer=generation.trainer)
        deltas = [replace(head, dense=self.dense)] if self._has_head else []
        for part in self.drained:
            deltas += self._row_deltas(head, part)
        assert len(deltas) == self.num_deltas
        numbered = [replace(delta, seq=self.first_seq + index) for index, delta in enumerate(deltas)]
        numbered[-1] = replace(numbered[-1], steps=self.steps, digest=self.digest)
        if self.first_seq == 0:
            numbered[0] = replace(numbered[0], parent=generation.parent)
        return [encode_delta(delta) for delta in numbered]

    def _row_deltas(self, head: Delta, part: DrainedTable) -> Iterator[Delta]:
        """Yield `head` with the rows and evictions of one table, chunk by chunk."""
        fids, rows, evicted = part.delta.fids, part.delta.rows, part.delta.evicted
        try:
            check_rows(rows, part.encoding)
        except ModelNotFinite as error:
            raise ModelNotFinite(f"table {part.table!r}: {error}") from None
        # Of a fid that has a row again the eviction is left out: it could be in a later delta than the row.
        evicted = evicted[~np.isin(evicted, fids)] if len(evicted) else evicted
        size = part.rows_of_a_delta(self.rows_per_delta)
        for start in range(0, part.num_deltas(self.rows_per_delta) * size, size):
            chunk = slice(start, start + size)
            yield replace(
                head,
                table=part.table,
                dim=part.dim,
                encoding=part.encoding,
                fids=fids[chunk],
                rows=rows[chunk],
                evicted=evicted[chunk],
            )
