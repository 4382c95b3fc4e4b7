"""Log and Kv that retry a failed call with growing pauses for a stated time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from monolith_py.clock import Clock
from monolith_py.errors import KvError, LogError, OffsetTrimmed, TopicMissing
from monolith_py.io import Kv, Log, Record

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# A broker or a Redis that was killed is back within 15 s; one that is away for longer needs an operator, who sees the process exit.
RETRY_S = 60.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class RetryPolicy:
    """Runs operations again that a store which is away let fail; `should_stop` ends the wait."""

    def __init__(self, clock: Clock, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._clock, self._should_stop = clock, should_stop

    def run(self, operation: Callable[[], _Result]) -> _Result:
        """Return what `operation`, which may run again, returns.

        Raises:
            LogError: the log was away for RETRY_S, or the process is to stop; `TopicMissing` and `OffsetTrimmed` at once.
            KvError: likewise for the store.
        """
        give_up_s = self._clock.monotonic_s() + RETRY_S
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return operation()
            except (TopicMissing, OffsetTrimmed):
                raise
            except (LogError, KvError) as error:
                if self._should_stop() or self._clock.monotonic_s() + pause_s > give_up_s:
                    raise
                _logger.warning("trying again in %.2f s: %s", pause_s, error)
            self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class RetryingLog:
    """A `Log` with retry for everything but appends: after a failed one the records may be there or not."""

    def __init__(self, log: Log, retry: RetryPolicy) -> None:
        self._log, self._retry = log, retry

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        """Create `topic`; do nothing where it exists."""
        self._retry.run(lambda: self._log.create_topic(topic, num_partitions))

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        return self._retry.run(lambda: self._log.num_partitions(topic))

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        """Append all values, without a second try."""
        return self._log.append(topic, values, time_ms=time_ms, partition=partition)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on."""
        return self._retry.run(lambda: self._log.read(topic, partition, offset, max_records, timeout_s))

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        return self._retry.run(lambda: self._log.start_offset(topic, partition))

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset that the next record will have."""
        return self._retry.run(lambda: self._log.end_offset(topic, partition))

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        return self._retry.run(lambda: self._log.offset_at(topic, partition, time_ms))

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Let go of records before `before_offset`."""
        self._retry.run(lambda: self._log.trim(topic, partition, before_offset))

    def close(self) -> None:
        """Free connections and files."""
        self._log.close()


class RetryingKv:
    """A `Kv` with retry: each of its operations may run again."""

    def __init__(self, kv: Kv, retry: RetryPolicy) -> None:
        self._kv, self._retry = kv, retry

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None where there is none."""
        return self._retry.run(lambda: self._kv.get_many(keys))

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Put and delete in one atomic, durable step."""
        self._retry.run(lambda: self._kv.write(puts, deletes))

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) whose key starts with `prefix`; a failure begins the scan again before anything is yielded."""
        yield from self._retry.run(lambda: list(self._kv.scan(prefix)))

    def close(self) -> None:
        """Free connections and files."""
        self._kv.close()
