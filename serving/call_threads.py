"""Threads of gRPC handlers: bounded waiting, and a time limit for calls that hold a thread without having sent their message."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from monolith_py.clock import Clock, SystemClock

_Result = TypeVar("_Result")

# grpcio waits in the handler's thread for the message of a call, without a limit. A message of 1 MiB takes 2 s at 4 Mbit/s; a machine
# that is short of CPU may take as long until the handler runs.
RECEIVE_S = 5.0
_CHECK_S = 0.25


@dataclass(eq=False)
class _Task:
    call: Any  # grpcio's server-side call
    began_s: float  # monotonic


class CallThreads(ThreadPoolExecutor):
    """Executor for the handlers of a gRPC server or of one of its services.

    A call that holds a thread for `limit_s` is cancelled, unless its handler has called `received`.
    """

    def __init__(self, num_threads: int, name: str, *, limit_s: float = RECEIVE_S, clock: Clock | None = None) -> None:
        super().__init__(num_threads, thread_name_prefix=name)
        self._limit_s, self._clock = limit_s, clock or SystemClock()
        self._counts = threading.Lock()
        self._num_waiting = 0
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
        call = next((arg.call for arg in args if hasattr(arg, "call_details")), None)
        with self._counts:
            self._num_waiting += 1
        try:
            return super().submit(self._run, call, function, *args, **kwargs)
        except RuntimeError:  # shut down
            with self._counts:
                self._num_waiting -= 1
            raise

    def received(self) -> None:
        """Exempt the call of this thread from the time limit."""
        task = getattr(self._current, "task", None)
        if task is not None:
            self._tasks.discard(task)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; see `ThreadPoolExecutor`."""
        self._ended.set()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, call: Any, function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
        with self._counts:
            self._num_waiting -= 1
        task = self._current.task = _Task(call, self._clock.monotonic_s())
        if call is not None:
            self._tasks.add(task)
        try:
            return function(*args, **kwargs)
        finally:
            self._tasks.discard(task)
            self._current.task = None

    def _watch(self) -> None:
        while not self._ended.wait(_CHECK_S):
            latest_s = self._clock.monotonic_s() - self._limit_s
            for task in list(self._tasks):
                if task.began_s <= latest_s:
                    self._tasks.discard(task)
                    task.call.cancel()
