"""Threads of gRPC handlers: calls that hold one without having sent their message are cancelled, others are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from monolith_py.clock import ManualClock
from monolith_py.errors import Overloaded
from monolith_serving.call_threads import CallThreads

LIMIT_S = 5.0


class Event:
    """The event of a call, as grpcio passes it: `call_details` and `call`."""

    call_details = None

    def __init__(self) -> None:
        self.call = self
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000)


@pytest.fixture
def threads(clock: ManualClock) -> Iterator[CallThreads]:
    with CallThreads(2, "test", limit_s=LIMIT_S, clock=clock) as threads:
        yield threads


def test_only_a_call_that_has_not_sent_its_message_is_cancelled_at_the_limit(threads, clock):
    begun, received, silent = threading.Semaphore(0), Event(), Event()

    def work(event: Event) -> bool:
        threads.received()
        begun.release()
        return silent.cancelled.wait(60)

    def wait_for_message(event: Event) -> bool:
        begun.release()
        return event.cancelled.wait(60)

    futures = [threads.submit(work, received), threads.submit(wait_for_message, silent)]
    for _ in futures:
        assert begun.acquire(timeout=60)
    clock.advance(LIMIT_S)
    assert all(future.result() for future in futures)
    assert not received.cancelled.is_set()


def test_a_call_that_has_ended_is_not_cancelled(threads, clock):
    ended, silent = Event(), Event()
    threads.submit(lambda event: None, ended).result()
    future = threads.submit(lambda event: event.cancelled.wait(60), silent)
    while not threads._tasks:
        threading.Event().wait(0.001)
    clock.advance(LIMIT_S)
    assert future.result() and not ended.cancelled.is_set()


def test_calls_that_wait_for_a_thread_are_counted(threads):
    gate = threading.Event()
    futures = [threads.submit(gate.wait, 60) for _ in range(5)]
    while threads.num_waiting != 3:
        threading.Event().wait(0.001)
    gate.set()
    assert all(future.result() for future in futures) and threads.num_waiting == 0


def test_a_call_after_the_end_is_refused_and_not_counted(threads):
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(print)
    assert threads.num_waiting == 0


class DeadlineEvent(Event):
    """The event of a call with a deadline, in Unix time."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__()
        self.call_details = self
        self.deadline = deadline_s


@pytest.fixture
def shedding(clock: ManualClock) -> Iterator[CallThreads]:
    """Threads that have seen sixteen calls of one second each."""
    with CallThreads(1, "test", sheds=True, clock=clock) as threads:
        for _ in range(16):
            threads.submit(lambda: clock.advance(1.0)).result()
        yield threads


def outcome(threads: CallThreads, clock: ManualClock, left_s: float) -> str:
    """Return what becomes of a call with `left_s` to its deadline."""

    def handle(event: Event) -> str:
        try:
            threads.received()
        except Overloaded:
            return "refused"
        return "taken"

    return threads.submit(handle, DeadlineEvent(clock.now_ms() / 1000 + left_s)).result(60)


def test_a_call_that_would_end_after_its_deadline_is_refused_while_the_threads_are_busy(shedding, clock):
    """At three times its capacity a replica answered a fifth of what it can: it worked on calls until their deadlines passed."""
    gate = threading.Event()
    held = [shedding.submit(gate.wait, 60) for _ in range(3)]
    # Three calls are inside, so a fourth takes 4 s, which must be at most 0.7 of its time.
    assert outcome(shedding, clock, 0.5) == outcome(shedding, clock, 5.5) == "refused"
    taken = shedding.submit(lambda _: shedding.received(), DeadlineEvent(clock.now_ms() / 1000 + 6.0))
    gate.set()
    assert all(future.result(60) for future in held) and taken.result(60) is None
    assert shedding.num_waiting == 0


def test_a_call_without_others_or_without_a_deadline_is_always_taken(shedding, clock):
    assert outcome(shedding, clock, 1e-3) == "taken"
    gate = threading.Event()
    held = shedding.submit(gate.wait, 60)
    endless = shedding.submit(lambda _: shedding.received(), DeadlineEvent(float("inf")))
    assert outcome(shedding, clock, 1.0) == "refused"
    gate.set()
    assert held.result(60) and endless.result(60) is None


def test_one_slow_call_refuses_none_after_it(clock):
    with CallThreads(1, "test", sheds=True, clock=clock) as calls:
        for duration_s in (*[0.01] * 15, 60.0):
            calls.submit(lambda seconds=duration_s: clock.advance(seconds)).result()
        gate = threading.Event()
        held = calls.submit(gate.wait, 60)
        taken = calls.submit(lambda _: calls.received(), DeadlineEvent(clock.now_ms() / 1000 + 0.2))
        gate.set()
        assert held.result(60) and taken.result(60) is None
