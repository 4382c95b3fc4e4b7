"""Read-only view of a log up to its end at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from monolith_py.io import Log, Record

# Wall-clock wait for the next record, which exists: a Kafka reader has nothing at once.
_WAIT_S = 1.0


class FixedLog:
    """A `Log` that has the topics of `log` up to their present ends and refuses every change, so a live job may go on meanwhile."""

    def __init__(self, log: Log, topics: Sequence[str]) -> None:
        """View `topics`.

        Raises:
            TopicMissing: one of them does not exist.
        """
        self._log = log
        self._ends = {(topic, number): log.end_offset(topic, number) for topic in topics for number in range(log.num_partitions(topic))}

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        return sum(name == topic for name, _ in self._ends)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on; an empty list means that there are no more."""
        end = self._ends[topic, partition]
        if offset >= end:
            return []
        records = self._log.read(topic, partition, offset, max_records, max(timeout_s, _WAIT_S))
        records = [record for record in records if record.offset < end]
        if not records:
            self._ends[topic, partition] = offset  # the last offsets have no record (Kafka's control records): do not wait for them again
        return records

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        return min(self._log.start_offset(topic, partition), self._ends[topic, partition])

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the end of the view."""
        return self._ends[topic, partition]

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end of the view."""
        return min(self._log.offset_at(topic, partition, time_ms), self._ends[topic, partition])

    def create_topic(self, topic: str, num_partitions: int = 1) -> NoReturn:
        """Refuse."""
        raise AssertionError(f"a view of the log creates no topic, got {topic!r}")

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> NoReturn:
        """Refuse."""
        raise AssertionError(f"a view of the log takes no record, got {len(values)} for {topic!r}")

    def writer(self, topic: str, partition: int, name: str) -> NoReturn:
        """Refuse."""
        raise AssertionError(f"a view of the log takes no record, got a writer of {topic!r}")

    def trim(self, topic: str, partition: int, before_offset: int) -> NoReturn:
        """Refuse."""
        raise AssertionError(f"a view of the log deletes no record, got {topic!r}")

    def close(self) -> None:
        """Do nothing: the log belongs to the caller."""
