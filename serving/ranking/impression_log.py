"""Log of impressions: ranking threads queue them, one thread appends them in batches."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from monolith_py.clock import Clock
from monolith_py.data.events import Impression
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.io.codec import encode_impression
from monolith_py.io.log.topics import partition_of
from monolith_py.observe.metrics import IMPRESSIONS_LOGGED, IMPRESSIONS_LOST

_logger = logging.getLogger(__name__)

# Impressions in the queue; further ones are lost, so that ranking never waits.
_MAX_QUEUED = 10_000
# Impressions gather for this time before one append.
_LINGER_S = 0.01
_MAX_BATCH = 500
_RETRY_S = 0.5
# Longest wait of a stop for a log that refuses.
_FLUSH_S = 10.0


class ImpressionWriter:
    """Appends impressions to `topic`, each to the partition of its request. `put` never blocks."""

    def __init__(self, log: Log, topic: str, clock: Clock) -> None:
        self._log, self._topic, self._clock = log, topic, clock
        self._num_partitions = log.num_partitions(topic)
        self._queue: queue.Queue[Callable[[], Impression]] = queue.Queue(_MAX_QUEUED)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="impressions", daemon=True)
        self._thread.start()

    def put(self, impression: Callable[[], Impression]) -> None:
        """Queue an impression, which the appending thread builds; count it as lost if the queue is full."""
        try:
            self._queue.put_nowait(impression)
        except queue.Full:
            IMPRESSIONS_LOST.inc()

    def close(self) -> None:
        """Append the queue, then stop; count as lost the impressions that the log refuses for 10 s."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            try:
                first = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            self._closing.wait(_LINGER_S)
            impressions = [first()]
            while len(impressions) < _MAX_BATCH and not self._queue.empty():
                impressions.append(self._queue.get_nowait()())
            for partition, batch in self._groups(impressions).items():
                self._append(partition, batch)

    def _groups(self, impressions: list[Impression]) -> dict[int, list[Impression]]:
        """Return the impressions of each partition, in the order of time."""
        groups: dict[int, list[Impression]] = {}
        for impression in sorted(impressions, key=lambda one: one.time_ms):
            groups.setdefault(partition_of(impression.request_id, self._num_partitions), []).append(impression)
        return groups

    def _append(self, partition: int, batch: list[Impression]) -> None:
        """Append, again while the log refuses. A duplicate is harmless: the joiner identifies requests by their id."""
        values = [encode_impression(impression) for impression in batch]
        times_ms = [impression.time_ms for impression in batch]
        give_up_s: float | None = None
        while True:
            try:
                self._log.append(self._topic, values, time_ms=times_ms, partition=partition)
                IMPRESSIONS_LOGGED.inc(len(batch))
                return
            except LogError as error:
                now_s = self._clock.monotonic_s()
                if self._closing.is_set():
                    give_up_s = give_up_s or now_s + _FLUSH_S
                    if now_s >= give_up_s:
                        IMPRESSIONS_LOST.inc(len(batch))
                        _logger.error("%d impressions lost at stop: %s", len(batch), error)
                        return
                _logger.warning("impressions not appended, will try again: %s", error)
                self._clock.sleep(_RETRY_S)
