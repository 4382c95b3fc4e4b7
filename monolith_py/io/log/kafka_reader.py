"""The consumer of one Kafka partition, for reads from any offset."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError


class PartitionReader:
    """Consumer of one partition that keeps its position. Safe for threads: their polls run one after the other."""

    def __init__(self, name: TopicPartition, settings: Mapping[str, Any]) -> None:
        self.name, self._settings = name, settings
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None
        # First offset of the next poll.
        self.position = -1

    def poll(self, offset: int, max_records: int, timeout_s: float) -> list[Any]:
        """Return records from `offset` on that arrive within `timeout_s`; none if the offset is out of range."""
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
            # Control records move the position but are not returned.
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
            # A fetch that waits at the end of the log delays the next one after a seek.
            fetch_max_wait_ms=50,
        )
        consumer.assign([self.name])
        return consumer
