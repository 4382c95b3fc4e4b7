"""Requests that arrive together are scored together, and one that arrives alone does not wait.

There is no scoring thread: the first caller scores what is queued, its own request first, then hands the lead to the head of the queue.
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
    """A caller that waits for its result, or for the lead."""

    def __init__(self, request: _Request, size: int, deadline_s: float) -> None:
        self.request, self.size, self.deadline_s = request, size, deadline_s
        self.wake = threading.Lock()  # released once: when `result`, `error` or `leads` is set
        self.wake.acquire()
        self.result: _Result | None = None
        self.error: Exception | None = None
        self.leads = self.gone = False


class Batcher(Generic[_Request, _Result]):
    """Groups the calls of many threads: `score` gets the requests of a group and returns their results in order, one group at a time."""

    def __init__(self, score: Callable[[Sequence[_Request]], Sequence[_Result]], max_batch: int, clock: Clock) -> None:
        self._score, self._max_batch, self._clock = score, max_batch, clock
        self._lock = threading.Lock()
        self._busy = False
        self._queue: deque[_Waiting[_Request, _Result]] = deque()

    def submit(self, request: _Request, size: int, deadline_s: float) -> _Result:
        """Return the result of `request`, which counts `size` towards the size of a group; `deadline_s` is on the monotonic clock.

        What `score` raises is raised for every request of the group.

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
        """Wait for the result or the lead."""
        if waiting.wake.acquire(timeout=max(0.0, waiting.deadline_s - self._clock.monotonic_s())):
            return
        with self._lock:
            waiting.gone = True
            if waiting.leads:
                self._hand_over()
        raise TimeoutError("the deadline passed before the request was scored")

    def _lead(self, waiting: _Waiting[_Request, _Result]) -> None:
        """Score the group at the head of the queue, which has `waiting` in it, and hand over."""
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
        """Return the requests of the next group: those whose callers still wait, `max_batch` in size or one that is larger by itself."""
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
        """Give the lead to the first caller that still waits; the lock is held."""
        while self._queue and self._queue[0].gone:
            self._queue.popleft()
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].wake.release()
        else:
            self._busy = False
