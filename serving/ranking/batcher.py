"""Batching of concurrent requests: requests that arrive together are scored together, a single one does not wait.

There is no scoring thread. The first caller leads: it scores the queue, its own request first, then makes the head of the queue lead.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Generic, TypeVar

from monolith_py.clock import Clock

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")


def _always() -> bool:
    return True


class _Waiting(Generic[_Request, _Result]):
    """A caller that waits for its result or to lead."""

    def __init__(self, request: _Request, size: int, deadline_s: float, is_active: Callable[[], bool]) -> None:
        self.request, self.size, self.deadline_s, self.is_active = request, size, deadline_s, is_active
        self.wake = threading.Lock()  # released once, when `result`, `error` or `leads` is set
        self.wake.acquire()
        self.result: _Result | None = None
        self.error: Exception | None = None
        self.leads = self.gone = False


class Batcher(Generic[_Request, _Result]):
    """Groups the calls of many threads.

    `score` takes the requests of one group at a time and returns for each, in order, its result or the error that only this request
    raises. If `score` itself raises, the requests of the group are scored one by one.
    """

    def __init__(self, score: Callable[[Sequence[_Request]], Sequence[_Result | Exception]], max_batch: int, clock: Clock) -> None:
        self._score, self._max_batch, self._clock = score, max_batch, clock
        self._lock = threading.Lock()
        self._busy = False
        self._queue: deque[_Waiting[_Request, _Result]] = deque()

    def submit(self, request: _Request, size: int, deadline_s: float, is_active: Callable[[], bool] = _always) -> _Result:
        """Return the result of `request`, which adds `size` to its group; `deadline_s` is on the monotonic clock.

        A request whose caller has left (`is_active` is false) is not scored.

        Raises:
            TimeoutError: the deadline passed.
            CancelledError: the caller has left.
        """
        waiting: _Waiting[_Request, _Result] = _Waiting(request, size, deadline_s, is_active)
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
        """Wait for the result or to lead. A caller that leaves for any reason hands the lead on."""
        woken = False
        try:
            left_s = waiting.deadline_s - self._clock.monotonic_s()
            woken = waiting.wake.acquire(timeout=min(max(0.0, left_s), threading.TIMEOUT_MAX))
        finally:
            if not woken:
                with self._lock:
                    waiting.gone = True
                    if waiting.leads:
                        self._hand_over()
        if not woken:
            raise TimeoutError("the deadline passed before the request was scored")

    def _lead(self, waiting: _Waiting[_Request, _Result]) -> None:
        """Score the group at the head of the queue, `waiting` included, and hand over."""
        group, left = self._take()
        try:
            if group:
                self._settle(group)
        finally:
            for one in (*group, *left):
                if one.result is None and one.error is None:
                    one.error = RuntimeError("scoring was interrupted")
                if one is not waiting:
                    one.wake.release()
            with self._lock:
                self._hand_over()

    def _settle(self, group: list[_Waiting[_Request, _Result]]) -> None:
        """Set the result or the error of each member of the group."""
        try:
            outcomes = self._score([one.request for one in group])
        except Exception as error:
            if len(group) == 1:
                group[0].error = error
                return
            for one in group:
                one.error = self._reason_to_skip(one)
                if one.error is None:
                    self._settle([one])
            return
        for one, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                one.error = outcome
            else:
                one.result = outcome

    def _take(self) -> tuple[list[_Waiting[_Request, _Result]], list[_Waiting[_Request, _Result]]]:
        """Return the next group, at most `max_batch` in size or one larger request, and those before it that are not to be scored."""
        group: list[_Waiting[_Request, _Result]] = []
        left: list[_Waiting[_Request, _Result]] = []
        size = 0
        with self._lock:
            while self._queue:
                head = self._queue[0]
                if not head.gone:
                    head.error = self._reason_to_skip(head)
                    if head.error is not None:
                        left.append(head)
                    elif group and size + head.size > self._max_batch:
                        break
                    else:
                        group.append(head)
                        size += head.size
                self._queue.popleft()
        return group, left

    def _reason_to_skip(self, waiting: _Waiting[_Request, _Result]) -> Exception | None:
        """Return why a request is not to be scored any more."""
        try:
            if self._clock.monotonic_s() >= waiting.deadline_s:
                return TimeoutError("the deadline passed before the request was scored")
            return None if waiting.is_active() else CancelledError()
        except Exception as error:  # of the caller's own `is_active`
            return error

    def _hand_over(self) -> None:
        """Make the first caller that still waits lead; the caller of this holds the lock."""
        while self._queue and self._queue[0].gone:
            self._queue.popleft()
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].wake.release()
        else:
            self._busy = False
