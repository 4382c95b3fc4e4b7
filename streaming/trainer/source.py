"""Batches of examples from the log, with the position after each."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from monolith_py.clock import Clock
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_examples
from monolith_py.io.log.dead_letters import DeadLetters

_logger = logging.getLogger(__name__)

_READ_RECORDS = 64
_POLL_S = 0.01  # between reads while several partitions are at their end


@dataclass
class _Cursor:
    partition: int
    offset: int  # of the record with the next row
    row: int  # of that record: the next to hand out
    records: deque[Record] = field(default_factory=deque)  # read and not finished; the first is `decoded`
    decoded: ExampleBatch | None = None

    def finish_record(self) -> None:
        """Go on to the next record."""
        self.offset = self.records.popleft().offset + 1
        self.row, self.decoded = 0, None


class ExampleSource:
    """Reads all partitions of `examples`, the earliest record by event time first; puts records that cannot be parsed aside.

    The order depends only on the log as long as every partition has a record left, so a trainer that restarts at a position gets the same
    batches again.
    """

    def __init__(self, log: Log, topic: str, positions: Mapping[int, tuple[int, int]], dead_letters: DeadLetters, clock: Clock) -> None:
        """Start at `positions`: partition -> (offset, row); an absent partition starts at its oldest record.

        Raises:
            LogError: the topic is missing.
        """
        self._log, self._topic, self._dead_letters, self._clock = log, topic, dead_letters, clock
        self._cursors = [
            _Cursor(partition, *positions.get(partition, (log.start_offset(topic, partition), 0)))
            for partition in range(log.num_partitions(topic))
        ]
        self._origins: list[tuple[int, int, int]] = []  # of the last batch: row after the record's rows, partition, offset

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """Return the position after the last batch: partition -> (offset, row) of the next example."""
        return {cursor.partition: (cursor.offset, cursor.row) for cursor in self._cursors}

    def origin_of(self, row: int) -> tuple[int, int]:
        """Return (partition, offset) of the record that holds row `row` of the last batch."""
        return next((partition, offset) for stop, partition, offset in self._origins if row < stop)

    def ends(self) -> dict[int, int]:
        """Return the current end offset of each partition."""
        return {cursor.partition: self._log.end_offset(self._topic, cursor.partition) for cursor in self._cursors}

    def has_reached(self, ends: Mapping[int, int]) -> bool:
        """Return whether every record before `ends` was handed out."""
        return all(cursor.offset >= ends[cursor.partition] and cursor.row == 0 for cursor in self._cursors)

    def next_batch(self, size: int, linger_s: float, should_stop: Callable[[], bool]) -> ExampleBatch | None:
        """Return `size` examples, fewer after `linger_s`, None if there is none by then.

        A batch also ends before a record of other tasks, or of another width of a dense feature.

        Raises:
            OffsetTrimmed: records at the position are gone.
        """
        parts: list[ExampleBatch] = []
        self._origins = []
        num, deadline_s = 0, self._clock.monotonic_s() + linger_s
        while num < size:
            cursor = self._earliest()
            if cursor is None:
                left_s = deadline_s - self._clock.monotonic_s()
                if left_s <= 0 or should_stop():
                    break
                self._wait(left_s)
                continue
            decoded = cursor.decoded
            assert decoded is not None
            if not all(decoded.can_follow(part) for part in parts):
                break
            part = decoded.slice(cursor.row, min(cursor.row + size - num, len(decoded)))
            num += len(part)
            parts.append(part)
            self._origins.append((num, cursor.partition, cursor.offset))
            cursor.row += len(part)
            if cursor.row == len(decoded):
                cursor.finish_record()
        return ExampleBatch.concat(parts) if parts else None

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
                cursor.records.extend(self._log.read(self._topic, cursor.partition, cursor.offset, _READ_RECORDS))
                if not cursor.records:
                    return
            record = cursor.records[0]
            if record.offset != cursor.offset:  # offsets may have holes
                cursor.offset, cursor.row = record.offset, 0
            try:
                cursor.decoded = decode_examples(record.value)
            except WireError as error:
                _logger.warning("%s[%d] offset %d put aside: %s", record.topic, record.partition, record.offset, error)
                self._dead_letters.put(record.topic, record.partition, record.offset, record.value, str(error))
                cursor.finish_record()
            else:
                if cursor.row >= len(cursor.decoded):
                    cursor.finish_record()

    def _wait(self, timeout_s: float) -> None:
        """Wait for a record, at most `timeout_s`."""
        if len(self._cursors) > 1:
            self._clock.sleep(min(_POLL_S, timeout_s))
            return
        only = self._cursors[0]
        only.records.extend(self._log.read(self._topic, only.partition, only.offset, _READ_RECORDS, timeout_s))
