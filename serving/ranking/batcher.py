"""Batching of concurrent requests: requests that arrive together are scored together, a single one does not wait.

There is no scoring thread. The first caller leads: it scores the queue, its own request first, then makes the head of the queue lead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from monolith_py.clock import Clock

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


class _Waiting(Generic[_Request, _Result]):
    """A caller that waits for its result or to lead."""

    def __init__(self, request: _Request, size: int, deadline_s: float) -> None:
        self.request, self.size, self.deadline_s = request, size, deadline_s
        self.wake = threading.Lock()  # released once, when `result`, `error` or `leads` is set
        self.wake.acquire()
        self.result: _Result | None = None
        self.error: Exception | None = None
        self.leads = self.gone = False


class Batcher(Generic[_Request, _Result]):
    """Groups the calls of many threads. `score` takes the requests of one group at a time and returns their results in order."""

    def __init__(self, score: Callable[[Sequence[_Request]], Sequence[_Result]], max_batch: int, clock: Clock) -> None:
        self._score, self._max_batch, self._clock = score, max_batch, clock
        self._lock = threading.Lock()
        self._busy = False
        self._queue: deque[_Waiting[_Request, _Result]] = deque()

    def submit(self, request: _Request, size: int, deadline_s: float) -> _Result:
        """Return the result of `request`, which adds `size` to its group; `deadline_s` is on the monotonic clock.

        An error of `score` is raised for every request of the group.

        Raises:
            TimeoutError: the deadline passed.
        """
        waiting: _Waiting[_Request, _Result] = _Waiting(request, size, deadline_s)
        with self._lock:
            self._queue.append(waiting)
            waiting.leads = not self._busy
            self._busy = True
        if not waiting.leads:
            self._wait(waiting)
        if waiting.leads:
            self._lead(waiting)
        if waiting.error is not None:
            raise waiting.error
        assert waiting.result is not None
        return waiting.result

    def _wait(self, waiting: _Waiting[_Request, _Result]) -> None:
        """Wait for the result or to lead."""
        if waiting.wake.acquire(timeout=max(0.0, waiting.deadline_s - self._clock.monotonic_s())):
            return
        with self._lock:
            waiting.gone = True
            if waiting.leads:
                self._hand_over()
        raise TimeoutError("the deadline passed before the request was scored")

    def _lead(self, waiting: _Waiting[_Request, _Result]) -> None:
        """Score the group at the head of the queue, `waiting` included, and hand over."""
        group = self._take()
        try:
            results = self._score([one.request for one in group])
            for one, result in zip(group, results, strict=True):
                one.result = result
        except Exception as error:
            for one in group:
                one.error = error
        finally:
            for one in group:
                if one is not waiting:
                    one.wake.release()
            with self._lock:
                self._hand_over()

    def _take(self) -> list[_Waiting[_Request, _Result]]:
        """Return the next group of callers that still wait: at most `max_batch` in size, or one larger request."""
        group: list[_Waiting[_Request, _Result]] = []
        size = 0
        with self._lock:
            while self._queue:
                head = self._queue[0]
                if not head.gone:
                    if group and size + head.size > self._max_batch:
                        break
                    group.append(head)
                    size += head.size
                self._queue.popleft()
        return group

    def _hand_over(self) -> None:
        """Make the first caller that still waits lead; the caller of this holds the lock."""
        while self._queue and self._queue[0].gone:
            self._queue.popleft()
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].wake.release()
        else:
            self._busy = False
