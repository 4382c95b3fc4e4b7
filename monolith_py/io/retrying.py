"""Log and Kv that retry failed calls, and the list of all retry policies.

Inside one call of a store (the store gives up with LogError or KvError):

    SqliteLog, SqliteKv      waits for the file's lock for 10 s
    RedisKv                  9 attempts of 5 s at most, 3.3 s of pauses              3.3 s if refused, 48 s if silent
    KafkaLog, read, look-up  attempts for 30 s, a request takes 10 s at most         40 s
    KafkaLog.append          30 s for the metadata, 60 s for the acknowledgement     90 s, 30 s as a rule

Around the calls:

    RetryPolicy              attempts that begin within RETRY_S, pauses of 0.05 s doubling to 2 s; then the error ends the process
    RetryingLog, RetryingKv  RetryPolicy around each call except `append`
    joiner, examples         one append, then RetryPolicy around settle, look-up of the last step, and append if it is missing
    joiner, dead letters     RetryPolicy around the append: at least once
    trainer, dead letters    one append; a failure ends the process, which restarts from its checkpoint
    trainer, updates         an append every `sync.sparse_interval_s`, for ever; a checkpoint flushes them in a RetryPolicy
    replica, updates         a read every 0.5 s, for ever; it serves the old model meanwhile
    replica, impressions     an append every 0.5 s, for ever, without one that the log refuses while it takes others; 10 s in a stop
    replica, features        one read, the caller waits for half of its request's time at most

The last attempt may begin at the end of RETRY_S, so the longest time until a process gives up is

    joiner or trainer, call on Kafka    60 + 40 = 100 s
    joiner, call on Redis               60 + 48 = 108 s
    joiner, examples                    90 + 60 + 100 = 250 s: its look-ups have a RetryPolicy of their own
    trainer, checkpoint                 60 + 2 x 90 = 240 s: an append on its way, then the next one
    replica, stop                       serving.drain_s + 5 + 10 = 16 s, whatever the stores do
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from monolith_py.clock import Clock
from monolith_py.errors import KvDenied, KvError, LogDenied, LogError, OffsetTrimmed, RecordRefused, RecordsDamaged, TopicMissing
from monolith_py.io import Kv, Log, Record, TopicInfo, Writer

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# A broker or Redis server that was killed is back within 15 s. A longer absence needs an operator, who sees the process exit.
RETRY_S = 60.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
# Errors that no further attempt cures.
_PERMANENT = (TopicMissing, OffsetTrimmed, RecordRefused, RecordsDamaged, LogDenied, KvDenied)


class RetryPolicy:
    """Repeats operations that fail because a store is away; `should_stop` ends the attempts, `before` runs before each operation.

    Safe for threads if these are.

    >>> from monolith_py.clock import ManualClock
    >>> attempts = iter([KvError("away"), KvError("away"), None])
    >>> def operation() -> str:
    ...     error = next(attempts)
    ...     if error:
    ...         raise error
    ...     return "done"
    >>> RetryPolicy(ManualClock()).run(operation)
    'done'
    """

    def __init__(self, clock: Clock, should_stop: Callable[[], bool] = lambda: False, before: Callable[[], None] = lambda: None) -> None:
        self._clock, self._should_stop, self._before = clock, should_stop, before

    def run(self, operation: Callable[[], _Result]) -> _Result:
        """Return the result of `operation`, which may run several times.

        Raises:
            LogError: the log was away for RETRY_S, or the process is to stop; at once for an error that no attempt cures.
            KvError: the store was away for RETRY_S, or the process is to stop.
        """
        self._before()
        give_up_s = self._clock.monotonic_s() + RETRY_S
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return operation()
            except _PERMANENT:
                raise
            except (LogError, KvError) as error:
                if self._should_stop() or self._clock.monotonic_s() + pause_s > give_up_s:
                    raise
                _logger.warning("next attempt in %.2f s: %s", pause_s, error)
            self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class RetryingLog:
    """A `Log` that retries every call except `append`: after a failed append the records may be in the log or not."""

    def __init__(self, log: Log, retry: RetryPolicy) -> None:
        self._log, self._retry = log, retry

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        """Create `topic`; do nothing if it exists."""
        self._retry.run(lambda: self._log.create_topic(topic, num_partitions))

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        return self._retry.run(lambda: self._log.num_partitions(topic))

    def describe(self, topic: str) -> TopicInfo:
        """Return identity and limits of a topic."""
        return self._retry.run(lambda: self._log.describe(topic))

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        """Append all values in order, in one attempt, and return the offset after the last."""
        return self._log.append(topic, values, time_ms=time_ms, partition=partition)

    def writer(self, topic: str, partition: int, name: str) -> Writer:
        """Return the writer `name` of the partition, which retries nothing, and fence the one before it."""
        return self._retry.run(lambda: self._log.writer(topic, partition, name))

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on."""
        return self._retry.run(lambda: self._log.read(topic, partition, offset, max_records, timeout_s))

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        return self._retry.run(lambda: self._log.start_offset(topic, partition))

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the next record."""
        return self._retry.run(lambda: self._log.end_offset(topic, partition))

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        return self._retry.run(lambda: self._log.offset_at(topic, partition, time_ms))

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete records before `before_offset`."""
        self._retry.run(lambda: self._log.trim(topic, partition, before_offset))

    def close(self) -> None:
        """Free connections and files."""
        self._log.close()


class RetryingKv:
    """A `Kv` that retries every call."""

    def __init__(self, kv: Kv, retry: RetryPolicy) -> None:
        self._kv, self._retry = kv, retry

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        return self._retry.run(lambda: self._kv.get_many(keys))

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes | None] | None = None) -> None:
        """Put, then delete, in one atomic, durable step."""
        self._retry.run(lambda: self._kv.write(puts, deletes, expect))

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) with a key that starts with `prefix`, each once, also if the scan fails in between."""
        scan, yielded = self._kv.scan(prefix), set[str]()

        def following() -> tuple[str, bytes] | None:
            nonlocal scan
            try:
                return next((entry for entry in scan if entry[0] not in yielded), None)
            except KvError:
                scan = self._kv.scan(prefix)
                raise

        while (entry := self._retry.run(following)) is not None:
            yielded.add(entry[0])
            yield entry

    def close(self) -> None:
        """Free connections and files."""
        self._kv.close()
