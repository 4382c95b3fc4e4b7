"""One publish: what was drained at one moment, cut into deltas, and the marks of the steps behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from monolith_py.sync.delta import Delta, StepMark, encode_delta
from monolith_py.sync.dense.state import DenseState
from monolith_py.sync.dense.update import DenseUpdate, full_update, next_update
from monolith_py.sync.rows import RowEncoding, check_rows
from monolith_py.table import EncodedDelta

# More marks than this are merged two by two, each pair at its older time: no row seems fresher than it is.
_MAX_MARKS = 4096


class StepMarks:
    """Times of training steps with the rows they updated, at most `max_marks`.

    >>> marks = StepMarks()
    >>> marks.add(5, 10)
    >>> marks.add(5, 1)
    >>> marks.take()
    (StepMark(time_ms=5, num_rows=11),)
    """

    def __init__(self, max_marks: int = _MAX_MARKS) -> None:
        self._max_marks = max_marks
        self._marks: list[StepMark] = []

    def add(self, time_ms: int, num_rows: int) -> None:
        """Note a step; times must not go back by more than the clock does."""
        if num_rows == 0:
            return
        if self._marks and self._marks[-1].time_ms == time_ms:
            num_rows += self._marks.pop().num_rows
        self._marks.append(StepMark(time_ms, num_rows))
        if len(self._marks) > self._max_marks:
            pairs = zip(self._marks[::2], [*self._marks[1::2], StepMark(0, 0)], strict=False)
            self._marks = [StepMark(older.time_ms, older.num_rows + newer.num_rows) for older, newer in pairs]

    def take(self) -> tuple[StepMark, ...]:
        """Return all marks, oldest first, and forget them."""
        marks, self._marks = tuple(self._marks), []
        return marks


@dataclass(frozen=True)
class Drained:
    """One drain of one table: n touched rows, m evicted fids."""

    table: str
    dim: int
    delta: EncodedDelta

    def num_deltas(self, rows_per_delta: int) -> int:
        """Return how many deltas these take."""
        return -(-max(len(self.delta.fids), len(self.delta.evicted)) // rows_per_delta)


@dataclass(frozen=True)
class DenseTurn:
    """Dense state captured for one publish. The worker decides between a full and an incremental update when it encodes.

    `base`: the state in the log before this publish, None at the first of a generation. `asked` returns whether a replica asked for a full
    state; it may read the log, so the training thread must not call it.
    """

    base: DenseState | None
    state: DenseState
    has_learnt: bool  # since `base`
    encoding: RowEncoding
    asked: Callable[[], bool]

    def update(self) -> DenseUpdate | None:
        """Return the update to publish, None where nobody needs one.

        Raises:
            ValueError: a weight is NaN or infinite.
        """
        asked = self.asked()
        if self.base is None or asked:
            return full_update(self.state, self.encoding)
        return next_update(self.base, self.state, self.encoding) if self.has_learnt else None


@dataclass(frozen=True)
class Publication:
    """Deltas of one generation from `first_seq` on: one for the dense state if it is due, then the rows of each table.

    The first delta is empty where the dense state needs no update. The step marks are in the last delta: once it is applied, all
    rows are servable.
    """

    generation: int
    first_seq: int
    watermark_ms: int
    published_ms: int
    turn: DenseTurn | None
    drained: Sequence[Drained]
    steps: tuple[StepMark, ...]
    encoding: RowEncoding
    rows_per_delta: int

    @property
    def is_empty(self) -> bool:
        """Return whether nothing changed."""
        return not (self.turn or self.num_rows or self.num_evicted)

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
        """Return how many deltas this is."""
        return (self.turn is not None) + sum(part.num_deltas(self.rows_per_delta) for part in self.drained)

    @property
    def num_bytes(self) -> int:
        """Return the size of all deltas."""
        return sum(map(len, self._values))

    def values(self) -> list[bytes]:
        """Return the deltas as bytes, the same at each call. The first call packs them, and may ask the log what replicas asked for.

        Raises:
            ValueError: a weight is NaN or infinite; the message names the table.
        """
        return self._values

    @cached_property
    def dense(self) -> DenseUpdate | None:
        """Return the update of the dense parameters, the same at each call. Like `values`, it may ask the log at the first."""
        return self.turn.update() if self.turn else None

    @cached_property
    def _values(self) -> list[bytes]:
        head = Delta(self.generation, self.first_seq, self.watermark_ms, self.published_ms)
        deltas = [replace(head, dense=self.dense)] if self.turn else []
        for part in self.drained:
            deltas += self._row_deltas(head, part)
        assert len(deltas) == self.num_deltas
        numbered = [replace(delta, seq=self.first_seq + index) for index, delta in enumerate(deltas)]
        numbered[-1] = replace(numbered[-1], steps=self.steps)
        return [encode_delta(delta) for delta in numbered]

    def _row_deltas(self, head: Delta, part: Drained) -> Iterator[Delta]:
        """Yield `head` with the rows and evictions of one table, chunk by chunk."""
        fids, rows, evicted = part.delta.fids, part.delta.rows, part.delta.evicted
        try:
            check_rows(rows, self.encoding)
        except ValueError as error:
            raise ValueError(f"table {part.table!r}: {error}") from None
        # A fid with a row is not evicted: its eviction and its row could lie in two deltas.
        evicted = evicted[~np.isin(evicted, fids)] if len(evicted) else evicted
        for start in range(0, part.num_deltas(self.rows_per_delta) * self.rows_per_delta, self.rows_per_delta):
            chunk = slice(start, start + self.rows_per_delta)
            yield replace(
                head,
                table=part.table,
                dim=part.dim,
                encoding=self.encoding,
                fids=fids[chunk],
                rows=rows[chunk],
                evicted=evicted[chunk],
            )
