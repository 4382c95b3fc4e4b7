"""Rules that all processes share: the stop signal, the number of threads, OpenMP's idle threads."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Rounds that an idle thread of torch's OpenMP spins before it sleeps, some tens of microseconds. The default holds a core for
# milliseconds, which the core's own threads need: a fifth of a step of the trainer on two cores.
OPENMP_SPINS = "20000"


class StopSignal:
    """The request to stop a process: set by SIGTERM, by SIGINT or by hand. Safe for threads.

    `is_set` serves a loop that polls, `wait` one that sleeps.

    >>> stop = StopSignal()
    >>> stop.wait(0.0)
    False
    >>> stop.set()
    >>> stop.wait(60.0)
    True
    """

    def __init__(self) -> None:
        # Not a `threading.Event`: a handler runs in the main thread between two bytecodes, also inside that thread's own `Event.wait`,
        # which holds the lock that `Event.set` takes. `SimpleQueue.put` is reentrant.
        self._is_set = False
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()

    def is_set(self) -> bool:
        """Return whether the process is to stop."""
        return self._is_set

    def set(self) -> None:
        """Request the stop and wake all waiting threads; for threads and signal handlers."""
        self._is_set = True
        self._wake_ups.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the request, at most `timeout_s`; return whether it is there."""
        if not self._is_set:
            try:
                self._wake_ups.get(timeout=timeout_s)
            except queue.Empty:
                return self._is_set
            self._wake_ups.put(None)  # for the next waiting thread
        return True

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle SIGTERM and SIGINT inside the block; main thread only."""
        before = {number: signal.signal(number, lambda *_: self.set()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def set_num_threads(num_threads: int, *, with_torch: bool = True) -> None:
    """Set the number of threads of torch and of the core, which starts with one; 0 takes all cores.

    `with_torch`: False for a process without torch, which is not imported then.

    Raises:
        ValueError: `num_threads` is below 0.
    """
    if num_threads < 0:
        raise ValueError(f"num_threads must be >= 0, got {num_threads!r}")
    from monolith_py import _core

    num_threads = num_threads or os.cpu_count() or 1
    if with_torch:
        import torch

        torch.set_num_threads(num_threads)
    _core.set_num_threads(num_threads)


def run_in_background() -> None:
    """Let all other threads of the machine go before this one and those that it starts.

    A thread of Linux's idle class makes room as soon as another wakes; one that is merely niced keeps its time slice of some
    milliseconds. Where that class is refused, niceness 19 is all that remains.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        os.nice(19)


def limit_openmp_spins() -> None:
    """Set GOMP_SPINCOUNT unless the environment has it. OpenMP reads it once: call this before torch is imported."""
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
