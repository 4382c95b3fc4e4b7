"""The idempotent producer of a Kafka log, opened at the first append and again after an error that no retry cures."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, RetriableError

from monolith_py.clock import Clock
from monolith_py.io.log.kafka_topics import MAX_RECORD_BYTES

# Header of the event time: milliseconds since the Unix epoch, 8 bytes, big-endian.
EVENT_TIME = "event_time_ms"


class RecordProducer:
    """Sends records with their event time, acknowledged by all in-sync replicas. Safe for threads."""

    def __init__(self, settings: Mapping[str, Any], timeout_s: float, clock: Clock) -> None:
        self._settings, self._timeout_s, self._clock = settings, timeout_s, clock
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def send(self, name: TopicPartition, values: Sequence[bytes], times_ms: Sequence[int]) -> int:
        """Send all values and return the offset of the last; negative if the broker does not tell it."""
        producer, now_ms = self._open(), self._clock.now_ms()
        try:
            sent = [
                producer.send(
                    name.topic,
                    value,
                    headers=[(EVENT_TIME, at_ms.to_bytes(8, "big"))],
                    partition=name.partition,
                    timestamp_ms=max(at_ms, now_ms),
                )
                for value, at_ms in zip(values, times_ms, strict=True)
            ]
            # The producer itself gives up after its delivery timeout; the margin is for its thread to report it.
            return int([future.get(timeout=2 * self._timeout_s) for future in sent][-1].offset)
        except KafkaError as error:
            if not isinstance(error, RetriableError):
                self._drop(producer)
            raise

    def close(self) -> None:
        """Wait for records on their way and close the connections."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=self._timeout_s)

    def _drop(self, producer: KafkaProducer) -> None:
        """Forget `producer`: kafka-python fails every record after an error that is not retriable, to any topic."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
        producer.close(timeout=0)

    def _open(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = open_producer(self._settings, self._timeout_s, enable_idempotence=True)
            return self._producer


def open_producer(settings: Mapping[str, Any], timeout_s: float, **options: Any) -> KafkaProducer:
    """Return a producer of large records that gives up after `timeout_s`."""
    return KafkaProducer(
        **settings,
        acks="all",
        max_request_size=MAX_RECORD_BYTES,
        batch_size=256 << 10,
        max_block_ms=int(timeout_s * 1000),
        delivery_timeout_ms=int(max(timeout_s * 1000, settings["request_timeout_ms"] + 1)),
        allow_auto_create_topics=False,
        **options,
    )
