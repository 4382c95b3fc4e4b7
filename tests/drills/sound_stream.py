"""Sound impressions and actions of a drill, with the examples that must come of them."""

from __future__ import annotations

import heapq
from collections import Counter

import numpy as np
from surroundings import Child, Deployment, Example, wait_until

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.log.topics import partition_of

GAP_MS = 250
# The drills' window is 20 s: the first delay is within it, the second after it.
_SOON_MS, _LATE_MS = 2_000, 30_000
# Requests with so many behind them have a closed window: 20 s of window, 2 s out of order, and the next clicks.
LEAD = 150


class SoundStream:
    """Requests of two candidates in order of event time, each topic appended as its time passes.

    Of every six requests two are clicked soon, one is clicked after its window (a retraction must follow), three are not clicked.
    """

    def __init__(self, deployment: Deployment, start_ms: int, name: str = "r") -> None:
        self._deployment, self._name = deployment, name
        self._start_ms = start_ms
        self._actions: list[tuple[int, str, bytes]] = []  # a heap of those to come: time, request, value
        self.num_requests = 0
        self.num_partitions = deployment.job.log.partitions
        self.expected: Counter[Example] = Counter()
        self._last: list[tuple[str, list[tuple[int, str, bytes]]]] = []  # topics and events of the last append
        self._places: dict[int, int] = {}  # offsets in `examples` up to which `_emitted` was read
        self._emitted: set[str] = set()

    @property
    def now_ms(self) -> int:
        """Event time of the next request."""
        return self._start_ms + self.num_requests * GAP_MS

    def append(self, num_requests: int) -> None:
        """Append the impressions of so many requests, and the actions up to the time of the last."""
        impressions, self._last = [], []
        for index in range(self.num_requests, self.num_requests + num_requests):
            time_ms, request_id = self._start_ms + index * GAP_MS, f"{self._name}{index}"
            impressions.append((time_ms, request_id, impression(request_id, index, time_ms)))
            delay_ms = {0: _SOON_MS, 2: _SOON_MS, 4: _LATE_MS}.get(index % 6)
            clicked, other = items_of(index)
            self.expected[request_id, clicked, 0, int(delay_ms == _SOON_MS)] += 1
            self.expected[request_id, other, 0, 0] += 1
            if delay_ms is not None:
                action = encode_action(Action(request_id, clicked, "click", time_ms + delay_ms))
                heapq.heappush(self._actions, (time_ms + delay_ms, request_id, action))
            if delay_ms == _LATE_MS:
                self.expected[request_id, clicked, 1, 1] += 1
        self.num_requests += num_requests
        self._append(self._deployment.topics.impressions, impressions)
        due = []
        while self._actions and self._actions[0][0] <= self.now_ms:
            due.append(heapq.heappop(self._actions))
        self._append(self._deployment.topics.actions, due)

    def repeat(self) -> None:
        """Append the last events again, as clients do whose acknowledgement was lost; no example may come of them."""
        for topic, events in list(self._last):
            self._append(topic, events)

    def feed(self, num_requests: int, *children: Child) -> None:
        """Append requests, and wait until the joiner has emitted those whose windows are closed."""
        self.append(num_requests)
        # A look reads all examples.
        wait_until(lambda: self.num_emitted() >= self.num_requests - LEAD, children, look_s=0.2)

    def num_emitted(self) -> int:
        """Return the number of requests of this stream that have examples."""
        for record in self._deployment.records(self._deployment.topics.examples, self._places):
            self._emitted.update(request for request in decode_examples(record.value).request_ids if request.startswith(self._name))
        return len(self._emitted)

    def end(self) -> None:
        """Append the actions that are still to come."""
        self._append(self._deployment.topics.actions, sorted(self._actions))
        self._actions = []

    def _append(self, topic: str, events: list[tuple[int, str, bytes]]) -> None:
        self._last.append((topic, events))
        log, num_partitions = self._deployment.log, self.num_partitions
        for partition in range(num_partitions):
            own = [event for event in events if partition_of(event[1], num_partitions) == partition]
            if own:
                log.append(topic, [value for _, _, value in own], time_ms=[time_ms for time_ms, _, _ in own], partition=partition)


def items_of(index: int) -> tuple[int, int]:
    """Return the two candidates of a request; the first may be clicked."""
    return index % 50, 50 + index % 7


def impression(request_id: str, index: int, time_ms: int) -> bytes:
    """Return the impression of a request of two candidates."""
    items = np.array(items_of(index))
    shared = FeatureColumns(1, {"user_id": SparseColumn(np.array([index % 20]), np.ones(1, np.int32))})
    candidates = FeatureColumns(2, {"video_id": SparseColumn(items, np.ones(2, np.int32))})
    return encode_impression(Impression(request_id, time_ms, index % 20, items, shared, candidates, np.zeros((2, 0), np.float32)))


def append_event(deployment: Deployment, topic: str, request_id: str, value: bytes, time_ms: int) -> None:
    """Append one event that a client made wrong."""
    partition = partition_of(request_id, deployment.job.log.partitions)
    deployment.log.append(topic, [value], time_ms=time_ms, partition=partition)
