"""The Log in memory, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from monolith_py.errors import Fenced, LogError, OffsetTrimmed, TopicMissing
from monolith_py.io.log.log import Record, check_read, check_topic, event_times


class MemoryLog:
    """A `Log` in the memory of this process. Reads never wait.

    >>> log = MemoryLog()
    >>> log.create_topic("examples")
    >>> writer = log.writer("examples", 0, "joiner")
    >>> writer.append([b"a", b"b"], time_ms=1)
    2
    """

    def __init__(self) -> None:
        self.records: dict[str, list[list[Record]]] = {}
        self.epochs: dict[tuple[str, int, str], int] = {}  # (topic, partition, name of the writer) -> newest epoch
        self._starts: dict[tuple[str, int], int] = {}  # start offsets of trimmed partitions

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        """Create `topic`; do nothing if it exists."""
        check_topic(topic, num_partitions)
        self.records.setdefault(topic, [[] for _ in range(num_partitions)])

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        if topic not in self.records:
            raise TopicMissing(topic)
        return len(self.records[topic])

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        """Append all values in order and return the offset after the last."""
        times_ms = event_times(time_ms, len(values))
        records, end = self._partition(topic, partition), self.end_offset(topic, partition)
        records += [Record(topic, partition, end + index, times_ms[index], value) for index, value in enumerate(values)]
        return end + len(values)

    def writer(self, topic: str, partition: int, name: str) -> MemoryWriter:
        """Return the writer `name` of the partition, and fence the one before it."""
        self._partition(topic, partition)
        key = (topic, partition, name)
        self.epochs[key] = self.epochs.get(key, 0) + 1
        return MemoryWriter(self, key, self.epochs[key])

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on."""
        check_read(offset, max_records)
        start, end = self.start_offset(topic, partition), self.end_offset(topic, partition)
        if offset < start:
            raise OffsetTrimmed(topic, partition, offset, start)
        if offset > end:
            raise LogError(f"{topic!r}[{partition}]: offset {offset} is beyond the end of the log, {end}")
        return self._partition(topic, partition)[offset - start : offset - start + max_records]

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        self._partition(topic, partition)
        return self._starts.get((topic, partition), 0)

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the next record."""
        return self.start_offset(topic, partition) + len(self._partition(topic, partition))

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        records = self._partition(topic, partition)
        return next((record.offset for record in records if record.time_ms >= time_ms), self.end_offset(topic, partition))

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete records before `before_offset`."""
        start = self.start_offset(topic, partition)
        stop = min(max(before_offset, start), self.end_offset(topic, partition))
        del self._partition(topic, partition)[: stop - start]
        self._starts[topic, partition] = stop

    def close(self) -> None:
        """Keep all records: the log may be used again."""

    def _partition(self, topic: str, partition: int) -> list[Record]:
        count = self.num_partitions(topic)
        if not 0 <= partition < count:
            raise LogError(f"{topic!r}: partition must be in [0, {count}), got {partition}")
        return self.records[topic][partition]


class MemoryWriter:
    """A `Writer` of one partition of a log in memory."""

    def __init__(self, log: MemoryLog, key: tuple[str, int, str], epoch: int) -> None:
        self._log, self._key, self._epoch = log, key, epoch

    def append(self, values: Sequence[bytes], *, time_ms: int | Sequence[int]) -> int:
        """Append all values in order and return the offset after the last."""
        self.settle()
        topic, partition, _ = self._key
        return self._log.append(topic, values, time_ms=time_ms, partition=partition)

    def settle(self) -> None:
        """Check the epoch."""
        newest = self._log.epochs[self._key]
        if newest != self._epoch:
            topic, partition, name = self._key
            rule = f"writer {name!r} must have epoch {newest}, got {self._epoch}"
            raise Fenced(f"{topic!r}[{partition}]: {rule}: another process has taken over")

    def close(self) -> None:
        """Do nothing."""
