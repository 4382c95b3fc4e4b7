"""The idempotent producer of a Kafka log, opened at the first append and again after an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from monolith_py.clock import Clock
from monolith_py.io.log.kafka_topics import MAX_RECORD_BYTES

# Header of the event time: milliseconds since the Unix epoch, 8 bytes, big-endian.
EVENT_TIME = "event_time_ms"
# A sending thread that was told to end at once does so within milliseconds.
_CLOSE_S = 5.0
# Between two looks at the partitions that a producer knows.
_LOOK_S = 0.05


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
            self._wait_for(producer, name)
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
        except KafkaError:
            self._drop(producer)
            raise

    def _wait_for(self, producer: KafkaProducer, name: TopicPartition) -> None:
        """Wait until `producer` knows a partition, which may have been added.

        It asks for the partitions every 5 minutes and raises a `ValueError` for one that it does not know (kafka-python 3.0.12).
        """
        give_up_s = time.monotonic() + self._timeout_s
        while name.partition not in producer.partitions_for(name.topic):
            if time.monotonic() > give_up_s:
                raise KafkaTimeoutError(f"the producer must know partition {name.partition} within {self._timeout_s:.0f} s")
            producer._metadata.request_update()
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """Wait for records on their way and close the connections."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=self._timeout_s)
            except KafkaError:  # what is on its way has failed for its caller already
                close_at_once(producer)

    def _drop(self, producer: KafkaProducer) -> None:
        """Forget `producer`: kafka-python fails every record after an error that is not retriable, to any topic.

        After a batch that expired it never sends again (3.0.12; findings/kafka_producer_never_sends_after_an_expired_batch.sh).
        """
        with self._lock:
            if self._producer is producer:
                self._producer = None
        close_at_once(producer)

    def _open(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = open_producer(self._settings, self._timeout_s, enable_idempotence=True)
            return self._producer


def close_at_once(producer: KafkaProducer) -> None:
    """Close `producer` without waiting for records on their way.

    Its own `close` waits for them first; if they do not come to an end, it raises and leaves the sending thread running.
    """
    producer._sender.force_close()
    with suppress(KafkaError):
        producer.close(timeout=_CLOSE_S)


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
