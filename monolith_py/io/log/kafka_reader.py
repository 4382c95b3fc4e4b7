"""Reading one partition of Kafka from any offset: the consumer behind `KafkaLog.read`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError


class PartitionReader:
    """The consumer of one partition, which keeps its place. Safe for threads: each waits for the one before."""

    def __init__(self, name: TopicPartition, settings: Mapping[str, Any]) -> None:
        self.name, self._settings = name, settings
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None
        # Offset that the next poll would return first.
        self.position = -1

    def poll(self, offset: int, max_records: int, timeout_s: float) -> list[Any]:
        """Return records from `offset` on that arrive within `timeout_s`; none where the offset is out of range, too."""
        with self._lock:
            if self._consumer is None:
                self._consumer = self._open()
            if offset != self.position:
                self._consumer.seek(self.name, offset)
                self.position = offset
            try:
                found = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
            except OffsetOutOfRangeError:
                self.position = -1
                return []
            records: list[Any] = found.get(self.name, [])
            # Control records move the position although none is returned.
            position = self._consumer.position(self.name, timeout_ms=0)
            self.position = records[-1].offset + 1 if records else (self.position if position is None else position)
            return records

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close(autocommit=False)
                self._consumer = None

    def _open(self) -> KafkaConsumer:
        consumer = KafkaConsumer(
            **self._settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=4 << 20,
            # A request that waits at the end of the log holds up the next one after a seek.
            fetch_max_wait_ms=50,
        )
        consumer.assign([self.name])
        return consumer
