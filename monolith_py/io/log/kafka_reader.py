"""The consumer of one Kafka partition, for reads from any offset. Its records are decoded in the core: in Python each takes 12 us."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError, OffsetOutOfRangeError, UnsupportedCodecError

from monolith_py import _core
from monolith_py.io.log.kafka_producer import EVENT_TIME
from monolith_py.io.log.log import Record

# Format of batches that the core reads. Older ones, from clients of before 2017, are left to kafka-python.
_MAGIC = 2


class DamagedBatch(Exception):
    """A batch of records cannot be decoded."""


class _Fetched(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """Records of one fetch, each a `Record`, without those of aborted transactions and control records."""

    def _unpack_records(self, tp: TopicPartition, records: Any, *_: Any) -> Iterator[Record]:
        while (batch := records.next_batch()) is not None:
            if not batch.validate_crc():
                raise CorruptRecordError(f"batch at offset {batch.base_offset} must match its checksum")
            if batch.magic >= _MAGIC:
                self.leader_epoch = batch.leader_epoch
            if batch.magic < _MAGIC or not self._is_to_skip(batch):
                for offset, time_ms, value in _records_of(batch):
                    self.records_read += 1
                    self.bytes_read += len(value)
                    self.next_fetch_offset = offset + 1
                    yield Record(tp.topic, tp.partition, offset, time_ms, value)
            if batch.magic >= _MAGIC:
                # The last records of the batch may have been removed.
                self.next_fetch_offset = batch.next_offset
        self.drain()

    def _is_to_skip(self, batch: Any) -> bool:
        """Return whether a batch holds no records of ours; note the ends of aborted transactions."""
        if batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def _records_of(batch: Any) -> list[tuple[int, int, bytes]]:
    """Return (offset, event time, value) of the records of a batch; b"" for a null value, which every decoder refuses."""
    if batch.magic < _MAGIC:
        return [(record.offset, max(int(record.timestamp or 0), 0), record.value or b"") for record in batch]
    iter(batch)  # decompresses it
    append_ms = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else -1
    place = (batch._buffer, batch._pos, batch.records_count, batch.base_offset, batch.first_timestamp)
    try:
        return _core.kafka_records(*place, append_ms, EVENT_TIME.encode())
    except ValueError as error:
        raise CorruptRecordError(f"batch at offset {batch.base_offset}: {error}") from error


def _decoding_consumer(**settings: Any) -> KafkaConsumer:
    """Return a consumer whose records are `Record`s of ours."""
    consumer = KafkaConsumer(**settings)
    # The fetcher asks itself for the class that unpacks what it fetched.
    consumer._fetcher.PartitionRecords = _Fetched
    return consumer


class PartitionReader:
    """Consumer of one partition that keeps its position. Safe for threads: their polls run one after the other.

    An exception of a poll closes the consumer, and the next poll opens a new one: kafka-python 3.0.12 may never return from a poll after
    an exception from the poll before.
    """

    def __init__(
        self, name: TopicPartition, settings: Mapping[str, Any], open_consumer: Callable[..., KafkaConsumer] = _decoding_consumer
    ) -> None:
        self.name, self._settings, self._open_consumer = name, settings, open_consumer
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None
        # First offset of the next poll.
        self.position = -1

    def poll(self, offset: int, max_records: int, timeout_s: float) -> list[Record]:
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

    def _poll(self, offset: int, max_records: int, timeout_s: float) -> list[Record]:
        if self._consumer is None:
            self._consumer = self._open()
        if offset != self.position:
            self._consumer.seek(self.name, offset)
            self.position = offset
        found = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        records: list[Record] = found.get(self.name, [])
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
            metrics_enabled=False,  # nobody reads them; a tenth of the CPU of a fetch
            max_partition_fetch_bytes=4 << 20,
            # A fetch that waits at the end of the log delays the next one after a seek.
            fetch_max_wait_ms=50,
        )
        consumer.assign([self.name])
        return consumer
