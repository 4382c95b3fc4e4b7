"""Threads of gRPC handlers: calls that hold one without having sent their message are cancelled, others are not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from monolith_py.clock import ManualClock
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
