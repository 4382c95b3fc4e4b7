"""Batches of examples from the log, with the position after each."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.data.columns import InputForm
from monolith_py.data.events import DeadLetter
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import OffsetTrimmed, RecordsDamaged, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import ExampleStacker, RecordRows, decode_examples, encode_examples, read_examples_record, step_from_metadata
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.observe import metrics
from monolith_streaming.joiner.position import newest_event_ms
from monolith_streaming.trainer.example_rules import ExampleRules
from monolith_streaming.trainer.step_order import SourcePlace, StepOrder

_logger = logging.getLogger(__name__)

_READ_RECORDS = 64
_POLL_S = 0.01  # between reads while several partitions are at their end, and once before there is no batch
_PARTITIONS_INTERVAL_S = 5.0  # between two looks at the number of partitions


@dataclass(frozen=True)
class _Decoded:
    """A record that may be learnt."""

    rows: _core.ExampleRecord
    tasks: frozenset[str]
    widths: Mapping[str, int]  # of dense features
    event_ms: int  # `newest_event_ms`

    @staticmethod
    def of(rows: _core.ExampleRecord, metadata: Mapping[str, str]) -> _Decoded:
        return _Decoded(rows, frozenset(rows.tasks), rows.widths, newest_event_ms(metadata))

    def can_follow(self, other: _Decoded) -> bool:
        """Return whether one batch can hold rows of both: equal tasks, and equal widths of the dense features that both have."""
        return self.tasks == other.tasks and all(
            self.widths[name] == other.widths[name] for name in self.widths.keys() & other.widths.keys()
        )


@dataclass
class _Cursor:
    partition: int
    offset: int  # of the record with the next row
    row: int  # of that record: the next to hand out
    records: deque[Record] = field(default_factory=deque)  # read and not finished; the first is `decoded`
    decoded: _Decoded | None = None
    step: JoinerStep | None = None  # of the first record, once it was decoded

    def finish_record(self) -> None:
        """Go on to the next record."""
        self.offset = self.records.popleft().offset + 1
        self.row, self.decoded, self.step = 0, None, None


class ExampleSource:
    """Reads all partitions of `examples`, the earliest record by event time first; puts records aside that cannot be learnt.

    A record that cannot be parsed, or does not fit `rules`, is one dead letter. Records that were deleted before they were read are counted
    and passed over. A partition that is added is read from its first record on. A record that repeats a step of the joiner is passed over.

    The order depends only on the log as long as every partition has a record left, so a trainer that restarts at a position gets the same
    batches again.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        place: SourcePlace,
        dead_letters: DeadLetters,
        clock: Clock,
        rules: ExampleRules | None = None,
    ) -> None:
        """Start at `place`.

        Raises:
            LogError: the topic is missing.
        """
        self._log, self._topic, self._dead_letters, self._clock, self._rules = log, topic, dead_letters, clock, rules
        self._look_due_s = clock.monotonic_s() + _PARTITIONS_INTERVAL_S
        self._cursors = [
            _Cursor(partition, *place.positions.get(partition, (log.start_offset(topic, partition), 0)))
            for partition in range(log.num_partitions(topic))
        ]
        self._order = StepOrder(topic, place)
        self._stacker = ExampleStacker(rules.form if rules else InputForm((), ()))
        self._newest_event_ms = 0  # of the last batch
        self._handed_s = clock.monotonic_s()  # when the last batch was handed out
        self._origins: list[tuple[int, int, int]] = []  # of the last batch: row after the record's rows, partition, offset

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """Return the position after the last batch: partition -> (offset, row) of the next example."""
        return {cursor.partition: (cursor.offset, cursor.row) for cursor in self._cursors}

    @property
    def steps(self) -> dict[int, JoinerStep]:
        """Return the joiner's step of the last record before the position of each partition, if it has one."""
        return self._order.last

    @property
    def newest_event_ms(self) -> int:
        """Return the event time of the newest event that the joiner had read for the last batch, 0 if it is not known."""
        return self._newest_event_ms

    def origin_of(self, row: int) -> tuple[int, int]:
        """Return (partition, offset) of the record that holds row `row` of the last batch."""
        return next((partition, offset) for stop, partition, offset in self._origins if row < stop)

    def ends(self) -> dict[int, int]:
        """Return the current end offset of each partition."""
        return {cursor.partition: self._log.end_offset(self._topic, cursor.partition) for cursor in self._cursors}

    def has_reached(self, ends: Mapping[int, int]) -> bool:
        """Return whether every record before `ends` was handed out."""
        return all(cursor.offset >= ends[cursor.partition] and cursor.row == 0 for cursor in self._cursors)

    def lags(self) -> dict[int, int]:
        """Return the number of offsets of each partition behind its position; move positions past offsets without a record.

        The last offset of a partition with transactions (Kafka) has no record: a position before it would look like one record behind,
        and like a lost one once it is trimmed.
        """
        for partition, end in self.ends().items():
            cursor = self._cursors[partition]
            if not cursor.records and cursor.offset < end:
                self._read(cursor)
                if not cursor.records and cursor.offset < end:
                    cursor.offset, cursor.row = end, 0
        return {partition: end - self._cursors[partition].offset for partition, end in self.ends().items()}

    def next_batch(self, size: int, linger_s: float, should_stop: Callable[[], bool]) -> ExampleBatch | None:
        """Return `size` examples; fewer once `linger_s` has passed since the last batch, None if there is none after that, or after 10 ms.

        So after a pause the first examples do not wait. A batch also ends before a record of other tasks, or of another width of a dense
        feature.
        """
        self._look_for_partitions()
        parts: list[RecordRows] = []
        records: list[_Decoded] = []  # of `parts`
        self._origins = []
        num, deadline_s = 0, self._clock.monotonic_s() + linger_s
        due_s, has_waited = min(deadline_s, self._handed_s + linger_s), False
        while num < size:
            cursor = self._earliest()
            if cursor is None:
                left_s = (due_s if parts else deadline_s) - self._clock.monotonic_s()
                if should_stop() or (left_s <= 0 and (parts or has_waited)):
                    break
                self._wait(left_s if left_s > 0 else _POLL_S)
                has_waited = True
                continue
            decoded = cursor.decoded
            assert decoded is not None
            if not all(decoded.can_follow(other) for other in records):
                break
            stop = min(cursor.row + size - num, len(decoded.rows))
            runs = self._in_order(cursor, decoded.rows, stop)
            cursor.row = stop
            for run in runs:
                num += run[1] - run[0]
                parts.append((decoded.rows, *run))
            if runs:
                records.append(decoded)
            self._origins.append((num, cursor.partition, cursor.offset))
            if cursor.row == len(decoded.rows):
                self._finish_record(cursor)
        self._newest_event_ms = max((decoded.event_ms for decoded in records), default=0)
        if not parts:
            return None
        self._handed_s = self._clock.monotonic_s()
        return self._stacker.stack(parts)

    def _in_order(self, cursor: _Cursor, rows: _core.ExampleRecord, stop: int) -> list[tuple[int, int]]:
        """Return the runs of rows from the cursor to `stop` whose event time is in order; put the others aside."""
        if self._rules is None:
            return [(cursor.row, stop)]
        runs, broken = self._rules.split(rows, cursor.row, stop)
        if broken:
            _logger.warning("%r[%d] offset %d: %d examples put aside: %s", self._topic, cursor.partition, cursor.offset, *_first(broken))
            batch = decode_examples(rows.value)
            letters = [
                DeadLetter(self._topic, cursor.partition, cursor.offset, encode_examples(batch.slice(row, row + 1)), rule)
                for row, rule in broken
            ]
            self._dead_letters.put_all(letters)
        return runs

    def _look_for_partitions(self) -> None:
        """Add partitions that the topic has got, now and then."""
        now_s = self._clock.monotonic_s()
        if now_s < self._look_due_s:
            return
        self._look_due_s = now_s + _PARTITIONS_INTERVAL_S
        for partition in range(len(self._cursors), self._log.num_partitions(self._topic)):
            _logger.warning("%r has a new partition %d, read from its first record on", self._topic, partition)
            self._cursors.append(_Cursor(partition, self._log.start_offset(self._topic, partition), 0))

    def _read(self, cursor: _Cursor, timeout_s: float = 0.0) -> None:
        """Read the next records of a partition; pass over those that are gone or damaged."""
        try:
            cursor.records.extend(self._log.read(self._topic, cursor.partition, cursor.offset, _READ_RECORDS, timeout_s))
        except OffsetTrimmed as error:
            _logger.error("examples lost, reading on at offset %d: %s", error.start, error)
            metrics.RECORDS_LOST.labels(topic=self._topic).inc(error.start - error.offset)
            cursor.offset, cursor.row = error.start, 0
            self._order.forget(cursor.partition)
        except RecordsDamaged as error:
            _logger.error("reading on at offset %d: %s", error.next_offset, error)
            metrics.RECORDS_LOST.labels(topic=self._topic).inc(error.next_offset - error.offset)
            self._dead_letters.put(self._topic, cursor.partition, error.offset, b"", str(error))
            cursor.offset, cursor.row = error.next_offset, 0
            self._order.forget(cursor.partition)

    def _earliest(self) -> _Cursor | None:
        """Return the cursor at the earliest record, its `decoded` set; None if every partition is at its end."""
        for cursor in self._cursors:
            self._fill(cursor)
        ready = (cursor for cursor in self._cursors if cursor.decoded is not None)
        return min(ready, key=lambda cursor: (cursor.records[0].time_ms, cursor.partition), default=None)

    def _fill(self, cursor: _Cursor) -> None:
        """Decode the next record with examples left, if the log has one."""
        while cursor.decoded is None:
            if not cursor.records:
                offset = cursor.offset
                self._read(cursor)
                if not cursor.records:
                    if cursor.offset != offset:
                        continue
                    return
            record = cursor.records[0]
            if record.offset != cursor.offset:  # offsets may have holes
                cursor.offset, cursor.row = record.offset, 0
            try:
                decoded = self._decode(cursor, record)
            except WireError as error:
                _logger.warning("%s[%d] offset %d put aside: %s", record.topic, record.partition, record.offset, error)
                self._dead_letters.put(record.topic, record.partition, record.offset, record.value, str(error))
                if cursor.step is None:
                    self._order.forget(cursor.partition)
                self._finish_record(cursor)
            else:
                if decoded is None:
                    cursor.finish_record()
                elif cursor.row >= len(decoded.rows):
                    self._finish_record(cursor)
                else:
                    cursor.decoded = decoded

    def _wait(self, timeout_s: float) -> None:
        """Wait for a record, at most `timeout_s`."""
        if len(self._cursors) > 1:
            self._clock.sleep(min(_POLL_S, timeout_s))
            return
        only = self._cursors[0]
        self._read(only, timeout_s)

    def _decode(self, cursor: _Cursor, record: Record) -> _Decoded | None:
        """Return the examples of the first record of `cursor`, None if it repeats a step of the joiner.

        Raises:
            WireError: it cannot be learnt.
        """
        rows, metadata = read_examples_record(record.value)
        step = step_from_metadata(metadata)
        if not self._order.is_new(record.partition, record.offset, step):
            return None
        cursor.step = step
        decoded = _Decoded.of(rows, metadata)
        if self._rules is not None:
            self._rules.check(decoded.tasks, decoded.widths)
        return decoded

    def _finish_record(self, cursor: _Cursor) -> None:
        self._order.finish(cursor.partition, cursor.step)
        cursor.finish_record()


def _first(broken: Sequence[tuple[int, str]]) -> tuple[int, str]:
    return len(broken), broken[0][1]
