"""Threads of gRPC handlers: refusal of calls that would wait too long, a time limit for those that have sent no message."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from monolith_py.clock import Clock, SystemClock
from monolith_py.errors import Overloaded
from monolith_serving.direct_server import DirectCall, DirectThreads

_Result = TypeVar("_Result")

# grpcio waits for the message of a call without a limit. A message of 1 MiB takes 2 s at 4 Mbit/s; a machine that is short of CPU may
# take as long until the handler runs.
RECEIVE_S = 5.0
_CHECK_S = 0.25
# Longest message, in bytes, of a call that is answered in one of the server's threads: a hand-over to another thread takes 40 to 100 us.
# A request of 2,000 candidates takes some 1.2 ms there.
MAX_AT_ONCE_BYTES = 32 << 10

# Ended calls that tell how long one takes, and share of a call's time that its prediction may fill.
_OBSERVATIONS = 16
_LARGEST_SHARE = 0.7


@dataclass(eq=False)
class _Task:
    call: Any  # grpcio's server-side call
    arrived_s: float  # monotonic
    place: int = 1  # among the calls inside, itself included, when it arrived
    began_s: float = 0.0
    is_refused: bool = False


class CallerThread(ThreadPoolExecutor):
    """Executor that runs a function in the thread of its caller: for handlers that refuse a call, and wait for nothing.

    >>> CallerThread().submit(max, 1, 2).result()
    2
    """

    def submit(self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Run `function`."""
        return _ran(function, *args, **kwargs)


class CallThreads(DirectThreads):
    """Executor for the handlers of a gRPC server or of one of its services.

    A call without a message after `limit_s` is cancelled: a handler that holds a thread must have called `received` by then. With `sheds`,
    a call that would end after its deadline is refused in the caller's thread, before its message is read: `received` raises. Calls
    share the machine, so the time to the end of one grows with the number of calls inside, waiting or running, when it arrived; that time
    for each of them is the median of the last 16 calls. A call that finds no other is taken, so a false prediction does not last.

    Of a `DirectServer`, unary calls of bytes get a thread once their message is there. Those with a short one, whose handler has a
    function `at_once`, are answered by it in a thread of the server, unless it returns None.
    """

    def __init__(self, num_threads: int, name: str, *, limit_s: float = RECEIVE_S, sheds: bool = False, clock: Clock | None = None) -> None:
        super().__init__(num_threads, thread_name_prefix=name)
        self._limit_s, self._clock = limit_s, clock or SystemClock()
        self._counts = threading.Lock()
        self._num_waiting = self._num_inside = 0
        self._seconds_per_call: deque[float] = deque(maxlen=_OBSERVATIONS)
        self._sheds = sheds
        self._ready: deque[tuple[_Task, DirectCall]] = deque()  # for `answer_next`
        self._tasks: set[_Task] = set()
        self._current = threading.local()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name=f"{name}-limit", daemon=True).start()

    @property
    def num_waiting(self) -> int:
        """Return the number of calls that wait for a thread."""
        return self._num_waiting

    def submit(self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Run `function` in a thread; grpcio passes the call's event among `args`."""
        # No public interface gives the call before its message has arrived.
        event = next((arg for arg in args if hasattr(arg, "call_details")), None)
        task = _Task(None if event is None else event.call, self._clock.monotonic_s())
        with self._counts:
            task.place = self._num_inside + 1
            task.is_refused = event is not None and self._sheds and self._is_too_late(event.call_details.deadline)
            if not task.is_refused:
                self._num_waiting += 1
                self._num_inside += 1
        call = DirectCall.of(function, args)
        if task.is_refused:
            return _ran(self._run_task, task, *((function, *args) if call is None else (call.run,)), **kwargs)
        if call is not None and self.is_direct:
            self._receive(task, call)
            return cast(Future[_Result], None)  # grpcio takes None for a call without a future
        return self._in_thread(task, function, *args, **kwargs)

    @property
    def has_ready(self) -> bool:
        """Return whether a call has its message and waits for `answer_next`."""
        return bool(self._ready)

    def answer_next(self) -> None:
        """Answer the first of these calls at once, or give it a thread."""
        try:
            task, call = self._ready.popleft()
        except IndexError:  # another thread of the server has answered it
            return
        at_once = call.at_once
        assert at_once is not None
        is_active = call.is_active
        if is_active and not call.answer(at_once):
            self._in_thread(task, call.run)
        else:
            self._leave(task, was_waiting=True, is_answered=is_active)

    def received(self) -> None:
        """Exempt the call of this thread from the time limit.

        Raises:
            Overloaded: the call is refused.
        """
        task = getattr(self._current, "task", None)
        if task is not None:
            self._tasks.discard(task)
            if task.is_refused:
                raise Overloaded(f"request would end after its deadline: {task.place - 1} are before it")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; see `ThreadPoolExecutor`."""
        self._ended.set()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _receive(self, task: _Task, call: DirectCall) -> None:
        task.began_s = task.arrived_s
        self._tasks.add(task)

        def then(has_come: bool) -> None:
            self._tasks.discard(task)
            if not has_come:
                self._leave(task, was_waiting=True, is_answered=False)
            elif call.at_once is not None and len(call.value) <= MAX_AT_ONCE_BYTES:
                self._ready.append((task, call))
            else:
                self._in_thread(task, call.run)

        call.receive(then)

    def _in_thread(self, task: _Task, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> Future[_Result]:
        try:
            return super().submit(self._run, task, function, *args, **kwargs)
        except RuntimeError:  # shut down
            self._leave(task, was_waiting=True, is_answered=False)
            raise

    def _run(self, task: _Task, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        with self._counts:
            self._num_waiting -= 1
        try:
            return self._run_task(task, function, *args, **kwargs)
        finally:
            self._leave(task, was_waiting=False, is_answered=True)

    def _leave(self, task: _Task, *, was_waiting: bool, is_answered: bool) -> None:
        observed_s = (self._clock.monotonic_s() - task.arrived_s) / task.place
        with self._counts:
            self._num_waiting -= was_waiting
            self._num_inside -= 1
            if is_answered:
                self._seconds_per_call.append(observed_s)

    def _run_task(self, task: _Task, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        self._current.task, task.began_s = task, self._clock.monotonic_s()
        if task.call is not None:
            self._tasks.add(task)
        try:
            return function(*args, **kwargs)
        finally:
            self._tasks.discard(task)
            self._current.task = None

    def _is_too_late(self, deadline_s: float) -> bool:
        """Return whether a call with a deadline in Unix time would end after it."""
        if self._num_inside == 0 or len(self._seconds_per_call) < _OBSERVATIONS:
            return False
        expected_s = sorted(self._seconds_per_call)[_OBSERVATIONS // 2] * (self._num_inside + 1)
        return expected_s > _LARGEST_SHARE * (deadline_s - self._clock.now_ms() / 1000)

    def _watch(self) -> None:
        while not self._ended.wait(_CHECK_S):
            latest_s = self._clock.monotonic_s() - self._limit_s
            for task in list(self._tasks):
                if task.began_s <= latest_s:
                    self._tasks.discard(task)
                    task.call.cancel()


def _ran(function: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
    """Run `function` and return its outcome."""
    future: Future[_Result] = Future()
    try:
        future.set_result(function(*args, **kwargs))
    except BaseException as error:
        future.set_exception(error)
    return future
