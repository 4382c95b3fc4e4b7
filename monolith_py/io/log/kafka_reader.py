"""The consumer of one Kafka partition, for reads from any offset."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaError, OffsetOutOfRangeError, UnsupportedCodecError

from monolith_py.io.log.kafka_producer import EVENT_TIME

_LARGEST_TIME_MS = 2**63 - 1


class DamagedBatch(Exception):
    """A batch of records cannot be decoded."""


class PartitionReader:
    """Consumer of one partition that keeps its position. Safe for threads: their polls run one after the other.

    An exception of a poll closes the consumer, and the next poll opens a new one: kafka-python 3.0.12 may never return from a poll after
    an exception from the poll before.
    """

    def __init__(
        self, name: TopicPartition, settings: Mapping[str, Any], open_consumer: Callable[..., KafkaConsumer] = KafkaConsumer
    ) -> None:
        self.name, self._settings, self._open_consumer = name, settings, open_consumer
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None
        # First offset of the next poll.
        self.position = -1

    def poll(self, offset: int, max_records: int, timeout_s: float) -> list[Any]:
        """Return records from `offset` on that arrive within `timeout_s`; none if the offset is out of range.

        Raises:
            DamagedBatch: the records at `offset` cannot be decoded.
        """
        with self._lock:
            try:
                return self._poll(offset, max_records, timeout_s)
            except OffsetOutOfRangeError:
                self.position = -1
                return []
            except (CorruptRecordError, UnsupportedCodecError) as error:
                self._drop()
                raise DamagedBatch(str(error)) from error
            except (KafkaError, OSError):
                self._drop()
                raise
            except Exception as error:  # of a decompressor, or of the client's parser
                self._drop()
                raise DamagedBatch(f"{type(error).__name__}: {error}") from error

    def offset_after_damage(self, offset: int, end: int, timeout_s: float) -> int:
        """Return the first offset after the damaged batch at `offset` that can be read, or `end`."""
        # Batches are contiguous: look ahead in growing strides, then bisect.
        low, stride = offset, 1
        while low + stride < end and not self._is_readable(low + stride, timeout_s):
            low, stride = low + stride, 2 * stride
        high = min(low + stride, end)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_readable(middle, timeout_s) else (middle, high)
        return high

    def _is_readable(self, offset: int, timeout_s: float) -> bool:
        try:
            self.poll(offset, 1, timeout_s)
        except DamagedBatch:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close(autocommit=False)
                self._consumer = None

    def _poll(self, offset: int, max_records: int, timeout_s: float) -> list[Any]:
        if self._consumer is None:
            self._consumer = self._open()
        if offset != self.position:
            self._consumer.seek(self.name, offset)
            self.position = offset
        found = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        records: list[Any] = found.get(self.name, [])
        # Control records move the position but are not returned.
        position = self._consumer.position(self.name, timeout_ms=0)
        self.position = records[-1].offset + 1 if records else (self.position if position is None else position)
        return records

    def _drop(self) -> None:
        consumer, self._consumer, self.position = self._consumer, None, -1
        if consumer is not None:
            with suppress(Exception):  # the exception of the poll is the one to report
                consumer.close(autocommit=False, timeout_ms=0)

    def _open(self) -> KafkaConsumer:
        consumer = self._open_consumer(
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


def event_time_ms(record: Any) -> int:
    """Return the event time in the record's header, or the timestamp of a record of another producer, 0 without one."""
    for name, value in record.headers or ():
        if name == EVENT_TIME and value is not None and len(value) == 8:
            time_ms = int.from_bytes(value, "big")
            if time_ms <= _LARGEST_TIME_MS:
                return time_ms
    return max(int(record.timestamp or 0), 0)
