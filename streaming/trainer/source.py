"""Examples from the log, in batches, with the position after each: what the trainer reads."""

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
_POLL_S = 0.01  # between looks at several partitions that are all at their end


@dataclass
class _Cursor:
    number: int
    offset: int  # of the record whose row comes next
    row: int  # first row of that record that was not handed out
    records: deque[Record] = field(default_factory=deque)  # read and not finished; the first is `decoded`
    decoded: ExampleBatch | None = None


class ExampleSource:
    """Reads all partitions of `examples`, the earliest record by event time first; a record that does not parse is put aside.

    The order depends on the log alone as long as every partition has a record to give, so a trainer that starts again at a position
    gets the very batches it would have got.
    """

    def __init__(self, log: Log, topic: str, positions: Mapping[int, tuple[int, int]], dead_letters: DeadLetters, clock: Clock) -> None:
        """Start at `positions`: partition -> (offset, row); a partition that is absent starts at the oldest record there is.

        Raises:
            LogError: the topic is missing.
        """
        self._log, self._topic, self._dead_letters, self._clock = log, topic, dead_letters, clock
        self._partitions = [
            _Cursor(number, *positions.get(number, (log.start_offset(topic, number), 0))) for number in range(log.num_partitions(topic))
        ]

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """Return the position after the last batch: partition -> (offset, row) of the next example."""
        return {partition.number: (partition.offset, partition.row) for partition in self._partitions}

    def ends(self) -> dict[int, int]:
        """Return the end offset of each partition, as it is now."""
        return {partition.number: self._log.end_offset(self._topic, partition.number) for partition in self._partitions}

    def has_reached(self, ends: Mapping[int, int]) -> bool:
        """Return whether every record before `ends` was handed out."""
        return all(p.offset >= ends[p.number] and p.row == 0 for p in self._partitions)

    def next_batch(self, size: int, linger_s: float, should_stop: Callable[[], bool]) -> ExampleBatch | None:
        """Return `size` examples, fewer after `linger_s`, None when there is none by then.

        Raises:
            OffsetTrimmed: records at the position are gone.
        """
        parts: list[ExampleBatch] = []
        num, deadline_s = 0, self._clock.monotonic_s() + linger_s
        while num < size:
            part = self._take(size - num)
            if part is not None:
                parts.append(part)
                num += len(part)
                continue
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0 or should_stop():
                break
            self._wait(left_s)
        return ExampleBatch.concat(parts) if parts else None

    def _take(self, limit: int) -> ExampleBatch | None:
        """Return up to `limit` examples of the earliest record, None where every partition is at its end."""
        for partition in self._partitions:
            self._fill(partition)
        ready = [partition for partition in self._partitions if partition.decoded is not None]
        if not ready:
            return None
        first = min(ready, key=lambda partition: (partition.records[0].time_ms, partition.number))
        decoded = first.decoded
        assert decoded is not None
        stop = min(first.row + limit, len(decoded))
        part = decoded.slice(first.row, stop)
        first.row = stop
        if stop == len(decoded):
            self._finish_record(first)
        return part

    def _fill(self, partition: _Cursor) -> None:
        """Have a decoded record with examples left, where the log has one."""
        while partition.decoded is None:
            if not partition.records:
                partition.records.extend(self._log.read(self._topic, partition.number, partition.offset, _READ_RECORDS))
                if not partition.records:
                    return
            record = partition.records[0]
            if record.offset != partition.offset:  # a hole in the log, or a trimmed start
                partition.offset, partition.row = record.offset, 0
            try:
                partition.decoded = decode_examples(record.value)
            except WireError as error:
                _logger.warning("%s[%d] offset %d put aside: %s", record.topic, record.partition, record.offset, error)
                self._dead_letters.put(record.topic, record.partition, record.offset, record.value, str(error))
                self._finish_record(partition)
            else:
                if partition.row >= len(partition.decoded):
                    self._finish_record(partition)

    def _finish_record(self, partition: _Cursor) -> None:
        partition.offset = partition.records.popleft().offset + 1
        partition.row, partition.decoded = 0, None

    def _wait(self, timeout_s: float) -> None:
        """Wait for a record, at most `timeout_s`."""
        if len(self._partitions) > 1:
            self._clock.sleep(min(_POLL_S, timeout_s))
            return
        only = self._partitions[0]
        only.records.extend(self._log.read(self._topic, only.number, only.offset, _READ_RECORDS, timeout_s))
