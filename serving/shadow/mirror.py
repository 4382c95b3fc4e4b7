"""Reader of mirrored requests: the impressions that replicas append, while they are young."""

from __future__ import annotations

from dataclasses import dataclass

from monolith_py.clock import Clock
from monolith_py.errors import OffsetTrimmed, RecordsDamaged
from monolith_py.io import Log, Record
from monolith_py.observe.metrics import SHADOW_DROPPED

# Records of one read of a partition.
_MAX_RECORDS = 256
# Pause between two looks at several partitions; a single one is waited for.
_POLL_S = 0.02
# Wall-clock seconds between two looks at the number of partitions.
_PARTITIONS_INTERVAL_S = 5.0


@dataclass
class _Cursor:
    """Place in one partition; records before `offset` were there at `drained_s`, and no other ones."""

    partition: int
    offset: int
    drained_s: float


class MirroredRequests:
    """Records of all partitions of `topic`, from the present end on.

    A record is at most `max_lag_s` old, by the monotonic clock and not by the times that apps put into it: a later model may have learnt
    its labels. Older ones are dropped and counted. For one thread.
    """

    def __init__(self, log: Log, topic: str, clock: Clock, max_lag_s: float) -> None:
        self._log, self._topic, self._clock, self._max_lag_s = log, topic, clock, max_lag_s
        self._cursors: list[_Cursor] = []
        self._look_due_s = 0.0
        self.skip_to_end()

    def skip_to_end(self) -> None:
        """Go on at the present end of each partition."""
        self._look_due_s = self._clock.monotonic_s() + _PARTITIONS_INTERVAL_S
        self._cursors = [self._at_end(partition) for partition in range(self._log.num_partitions(self._topic))]

    def read(self, timeout_s: float) -> list[Record]:
        """Return the next records, at most 256 of a partition; wait up to `timeout_s` for the first.

        Raises:
            LogError: the log cannot be reached.
        """
        self._look_for_partitions()
        timeout_s = min(timeout_s, self._max_lag_s / 4)  # how old a record is, is known up to two such waits
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            alone = len(self._cursors) == 1
            records = [record for cursor in self._cursors for record in self._read(cursor, timeout_s if alone else 0.0)]
            left_s = deadline_s - self._clock.monotonic_s()
            if records or left_s <= 0:
                return records
            self._clock.sleep(min(_POLL_S, left_s))

    def _read(self, cursor: _Cursor, timeout_s: float) -> list[Record]:
        begin_s = self._clock.monotonic_s()
        try:
            records = self._log.read(self._topic, cursor.partition, cursor.offset, _MAX_RECORDS, timeout_s)
        except (OffsetTrimmed, RecordsDamaged):
            cursor.offset = self._log.end_offset(self._topic, cursor.partition)
            return []
        if records:
            cursor.offset = records[-1].offset + 1
        since_s, now_s = cursor.drained_s, self._clock.monotonic_s()
        if not records:
            cursor.drained_s = max(begin_s, cursor.drained_s)
            return []
        if now_s - since_s <= self._max_lag_s:  # the records came after `since_s`
            if len(records) < _MAX_RECORDS:  # the read has reached the end
                cursor.drained_s = begin_s
            return records
        SHADOW_DROPPED.labels(reason="late").inc(len(records))
        end = self._at_end(cursor.partition)
        SHADOW_DROPPED.labels(reason="late").inc(max(end.offset - cursor.offset, 0))
        cursor.offset, cursor.drained_s = max(end.offset, cursor.offset), end.drained_s
        return []

    def _at_end(self, partition: int) -> _Cursor:
        drained_s = self._clock.monotonic_s()
        return _Cursor(partition, self._log.end_offset(self._topic, partition), drained_s)

    def _look_for_partitions(self) -> None:
        """Add partitions that the topic has got, now and then."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_due_s:
            self._look_due_s = now_s + _PARTITIONS_INTERVAL_S
            for partition in range(len(self._cursors), self._log.num_partitions(self._topic)):
                self._cursors.append(self._at_end(partition))
