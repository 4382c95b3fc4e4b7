"""Log of impressions: ranking threads queue them, one thread encodes and appends them in batches."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, NamedTuple, Protocol, TypeVar

from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.errors import LogError, RecordRefused
from monolith_py.io import Log
from monolith_py.io.log.topics import partition_of
from monolith_py.observe.metrics import IMPRESSIONS_LOGGED, IMPRESSIONS_LOST
from monolith_serving.log_limit import LogLimit

_logger = logging.getLogger(__name__)

# Impressions gather for this time before one append, unless a batch is there. A batch has at most 500, or more if they are small: each
# append waits for the disk, so the rate of small ones is bounded by their number in it.
_LINGER_S = 0.01
_MAX_BATCH = 500
_SMALL_BATCH_BYTES = 8 << 20
_RETRY_S = 0.5
# Longest time that a stop takes, whatever the log does.
_FLUSH_S = 10.0
# Wall-clock seconds between two looks at the number of partitions.
_PARTITIONS_INTERVAL_S = 5.0
# An impression is put aside after so many refusals, if the log took other records in between.
_MAX_REFUSALS = 3
# Most refused appends that are tried again beside new impressions. More of them: the log is away, and takes nothing.
_MAX_SUSPECTS = 8
# Of a queued impression, beside its features: objects, names, ids.
_OVERHEAD_BYTES = 1024


class _HasPlace(Protocol):
    """Request id and event time of an impression."""

    @property
    def request_id(self) -> str: ...
    @property
    def time_ms(self) -> int: ...


_BY_TIME = attrgetter("time_ms")
_Served = TypeVar("_Served", bound=_HasPlace)
# Returns the impressions of several requests as bytes; an exception for all of them if one cannot be encoded.
Encode = Callable[[Sequence[_Served]], Sequence[bytes]]


class _Queued(NamedTuple, Generic[_Served]):
    served: _Served
    num_bytes: int


class _Encoded(NamedTuple):
    value: bytes
    time_ms: int
    num_bytes: int  # as queued


@dataclass
class _Append:
    """Records for one partition, to be appended together."""

    partition: int
    records: list[_Encoded]
    num_refusals: int = 0
    first_refusal: int | None = None  # number of successful appends at that time

    def halves(self) -> list[_Append]:
        """Return two appends of half the records each, as new."""
        middle = len(self.records) // 2
        return [_Append(self.partition, self.records[:middle]), _Append(self.partition, self.records[middle:])]


class ImpressionWriter(Generic[_Served]):
    """Encodes impressions and appends them to `topic`, each to the partition of its request. `put` never blocks.

    A failed append is tried again, in halves, until the log takes it: a duplicate is harmless, as the joiner knows requests by their id.
    An impression is put aside that the log says it will never take, or that it refuses while it takes others. Every loss is counted
    when it happens.
    """

    def __init__(self, log: Log, topic: str, config: ServingConfig, clock: Clock, encode: Encode[_Served]) -> None:
        self._encode = encode
        self._log, self._topic, self._config, self._clock = log, topic, config, clock
        self._num_partitions = log.num_partitions(topic)
        self._look_due_s = clock.monotonic_s() + _PARTITIONS_INTERVAL_S
        self._queue: queue.SimpleQueue[_Queued[_Served]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_held = self._bytes_held = 0  # queued or being appended
        self._is_closed = False
        self._num_appends = 0  # successful ones
        self._log_limit = LogLimit(clock)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    def put(self, served: _Served, num_bytes: int) -> None:
        """Queue the impression of a request, of at most `num_bytes`; count it as lost if it does not fit."""
        if num_bytes > self._config.max_impression_bytes:
            self._note_lost("oversize", 1)
            return
        num_bytes += _OVERHEAD_BYTES
        with self._lock:
            fits = not self._is_closed and self._bytes_held + num_bytes <= self._config.impression_queue_bytes
            if fits:
                self._num_held += 1
                self._bytes_held += num_bytes
        if fits:
            self._queue.put(_Queued(served, num_bytes))
        else:
            self._note_lost("queue", 1)

    def close(self) -> None:
        """Append the queue for at most 10 s, then stop; count as lost what the log has not acknowledged."""
        self._closing.set()
        self._thread.join(_FLUSH_S)
        with self._lock:
            self._is_closed = True
            num_lost, self._num_held = self._num_held, 0
        if num_lost:
            self._note_lost("stop", num_lost)

    def _run(self) -> None:
        appends: deque[_Append] = deque()
        give_up_s: float | None = None
        while not (self._closing.is_set() and self._queue.empty() and not appends):
            if self._closing.is_set():
                give_up_s = give_up_s or self._clock.monotonic_s() + _FLUSH_S
                if self._clock.monotonic_s() >= give_up_s:
                    return
            if len(appends) < _MAX_SUSPECTS:
                appends.extend(self._take(wait_s=0.0 if appends else 0.1))
            if not self._try_each(appends):
                self._clock.sleep(_RETRY_S)

    def _take(self, wait_s: float) -> list[_Append]:
        """Return the appends of a batch of queued impressions; wait up to `wait_s` for the first."""
        try:
            first = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
        except queue.Empty:
            return []
        self._look_for_partitions()
        if self._queue.qsize() < _MAX_BATCH:
            self._closing.wait(_LINGER_S)
        taken, num_bytes = [first], first.num_bytes
        while (len(taken) < _MAX_BATCH or num_bytes < _SMALL_BATCH_BYTES) and not self._queue.empty():
            taken.append(self._queue.get_nowait())
            num_bytes += taken[-1].num_bytes
        groups: dict[int, list[_Encoded]] = {}
        for queued, value in zip(taken, self._encode_all(taken), strict=True):
            if value is not None and self._fits(queued, value):
                partition = partition_of(queued.served.request_id, self._num_partitions)
                groups.setdefault(partition, []).append(_Encoded(value, queued.served.time_ms, queued.num_bytes))
        return [_Append(partition, sorted(records, key=_BY_TIME)) for partition, records in groups.items()]

    def _look_for_partitions(self) -> None:
        """Use partitions that were added, for impressions that have no partition yet."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._look_due_s:
            self._look_due_s = now_s + _PARTITIONS_INTERVAL_S
            with suppress(LogError):
                self._num_partitions = self._log.num_partitions(self._topic)

    def _encode_all(self, taken: Sequence[_Queued[_Served]]) -> Sequence[bytes | None]:
        """Return the bytes of each impression; None for one that cannot be encoded, which is lost."""
        try:
            return self._encode([queued.served for queued in taken])
        except Exception:  # one impression must not end the thread, nor lose another one
            if len(taken) > 1:
                return [value for queued in taken for value in self._encode_all([queued])]
            if self._log_limit.allows("traceback"):
                _logger.exception("one impression cannot be encoded")
            self._release(1, taken[0].num_bytes, lost="encode")
            return [None]

    def _fits(self, queued: _Queued[_Served], value: bytes) -> bool:
        """Return whether an impression is not too large; it is lost if it is."""
        if len(value) <= self._config.max_impression_bytes:
            return True
        self._release(1, queued.num_bytes, lost="oversize")
        return False

    def _try_each(self, appends: deque[_Append]) -> bool:
        """Try each append once; stop at the second failure in a row. Return whether none failed."""
        failures = failures_in_a_row = 0
        for _ in range(len(appends)):
            append = appends.popleft()
            error = self._append(append)
            if error is None:
                failures_in_a_row = 0
            elif isinstance(error, RecordRefused):  # the log is there
                appends.extend(self._without_refused(append))
            else:
                failures, failures_in_a_row = failures + 1, failures_in_a_row + 1
                appends.extend(self._again(append, split=len(appends) < _MAX_SUSPECTS))
                if failures_in_a_row == 2:
                    break
        return failures == 0

    def _append(self, append: _Append) -> Exception | None:
        """Append the records; return the error if the log did not take them."""
        values, times_ms = [one.value for one in append.records], [one.time_ms for one in append.records]
        try:
            self._log.append(self._topic, values, time_ms=times_ms, partition=append.partition)
        except Exception as error:  # a `LogError`, or one that the log does not map: neither may end the thread
            if self._log_limit.allows(type(error).__name__):
                _logger.warning("%d impressions not appended: %s", len(values), error)
            return error
        self._num_appends += 1
        self._release(len(values), sum(one.num_bytes for one in append.records), lost=None)
        return None

    def _without_refused(self, append: _Append) -> list[_Append]:
        """Return what to try next of an append that the log will never take: its halves, or nothing of a single record."""
        if len(append.records) > 1:
            return append.halves()
        self._release(1, append.records[0].num_bytes, lost="refused")
        return []

    def _again(self, append: _Append, *, split: bool) -> list[_Append]:
        """Return what to try later of a failed append: its halves, itself, or nothing if it alone fails."""
        if len(append.records) > 1:
            return append.halves() if split else [append]
        append.num_refusals += 1
        if append.first_refusal is None:
            append.first_refusal = self._num_appends
        if append.num_refusals < _MAX_REFUSALS or self._num_appends == append.first_refusal:
            return [append]
        return self._without_refused(append)

    def _release(self, count: int, num_bytes: int, *, lost: str | None) -> None:
        """Count impressions that are not held any more as logged or lost."""
        with self._lock:
            if self._is_closed:  # counted as lost by `close`
                return
            self._num_held -= count
            self._bytes_held -= num_bytes
        if lost is None:
            IMPRESSIONS_LOGGED.inc(count)
        else:
            self._note_lost(lost, count)

    def _note_lost(self, reason: str, count: int) -> None:
        IMPRESSIONS_LOST.labels(reason=reason).inc(count)
        if self._log_limit.allows(reason):
            _logger.error("%d impressions lost, reason %s", count, reason)
