"""The fenced writer of one Kafka partition: a transaction for each append.

The broker lets one producer at a time use a transactional id. Opening the next one aborts what the older one has begun, or completes what
it has committed; every request of the older one that arrives later is refused, even one that lay in the network for minutes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError

from monolith_py.clock import Clock
from monolith_py.errors import Fenced, RecordRefused
from monolith_py.io.log.kafka_errors import writer_errors
from monolith_py.io.log.kafka_producer import EVENT_TIME, close_at_once
from monolith_py.io.log.log import event_times

# The broker aborts a transaction that is open for longer, so that readers of committed records wait no longer for a dead process.
TRANSACTION_TIMEOUT_MS = 60_000


class HasEnd(Protocol):
    """The log of a writer."""

    def check_size(self, topic: str, partition: int, values: Sequence[bytes]) -> None:
        """Check that the topic takes values of these sizes."""
        ...

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset after the last committed record."""
        ...


class KafkaWriter:
    """A `Writer` with the producers that `open_producer` returns, all of one transactional id; `log` has the partition."""

    def __init__(
        self, log: HasEnd, open_producer: Callable[[], KafkaProducer], name: TopicPartition, timeout_s: float, clock: Clock
    ) -> None:
        """Open the producer, which fences the writer before this one."""
        self._log, self._open_producer, self._name, self._timeout_s, self._clock = log, open_producer, name, timeout_s, clock
        self._where = f"{name.topic!r}[{name.partition}]"
        self._is_settled = False
        self._fenced: Fenced | None = None
        self._producer: KafkaProducer | None = None
        self.settle()

    def append(self, values: Sequence[bytes], *, time_ms: int | Sequence[int]) -> int:
        """Append all values in one transaction and return the offset after its marker once all in-sync replicas have them."""
        times_ms = event_times(time_ms, len(values))
        self._log.check_size(self._name.topic, self._name.partition, values)
        if not self._is_settled:
            self.settle()
        assert self._producer is not None
        self._is_settled = False
        try:
            with writer_errors(self._where):
                last = self._commit(self._producer, values, times_ms)
        except Fenced as error:
            self._fenced = error
            raise
        except RecordRefused:
            self.settle()
            raise
        self._is_settled = True
        if last >= 0:
            return last + 2  # the marker of the commit takes an offset
        # The broker does not return the offset of a record that it already had before a retry.
        self.settle()
        return self._log.end_offset(self._name.topic, self._name.partition)

    def settle(self) -> None:
        """Open the next producer of the transactional id: a transaction on its way is completed, or aborted for good.

        This fences another process that has taken over since the last append: compare the log with what was appended before going on.
        """
        if self._fenced is not None:
            raise self._fenced
        with writer_errors(self._where):
            self.close()
            self._producer = self._open_producer()
            self._producer.init_transactions()
        self._is_settled = True

    def close(self) -> None:
        """Close the connections; a transaction on its way stays open until the next writer comes, or for a minute."""
        producer, self._producer = self._producer, None
        self._is_settled = False
        if producer is not None:
            close_at_once(producer)

    def _commit(self, producer: KafkaProducer, values: Sequence[bytes], times_ms: Sequence[int]) -> int:
        """Run the transaction and return the offset of the last record."""
        now_ms = self._clock.now_ms()
        producer.begin_transaction()
        sent = [
            producer.send(
                self._name.topic,
                value,
                headers=[(EVENT_TIME, at_ms.to_bytes(8, "big"))],
                partition=self._name.partition,
                timestamp_ms=max(at_ms, now_ms),
            )
            for value, at_ms in zip(values, times_ms, strict=True)
        ]
        last = int([future.get(timeout=2 * self._timeout_s) for future in sent][-1].offset)
        _within(self._timeout_s, producer.commit_transaction)
        return last


def _within(timeout_s: float, operation: Callable[[], None]) -> None:
    """Run `operation`, which has no time limit of its own, in a thread.

    Raises:
        KafkaTimeoutError: it has not returned within `timeout_s`.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            operation()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="kafka-commit", daemon=True).start()
    try:
        outcome.result(timeout_s)
    except TimeoutError:
        raise KafkaTimeoutError(f"the transaction must be committed within {timeout_s:.0f} s") from None
