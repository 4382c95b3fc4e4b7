"""Concurrent calls are scored together, a single call by itself, and no call after its deadline."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from monolith_py.clock import SystemClock
from monolith_serving.ranking.batcher import Batcher

FAR_S = SystemClock().monotonic_s() + 1e6


class Gate:
    """Scores by doubling; the first group waits for the gate, so that other calls gather."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.groups: list[list[int]] = []

    def score(self, group):
        self.groups.append(list(group))
        if len(self.groups) == 1:
            self.entered.set()
            self.opened.wait()
        return [2 * one for one in group]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


def queued(batcher: Batcher, count: int) -> None:
    """Return once `count` calls wait in the queue."""
    while len(batcher._queue) < count:
        threading.Event().wait(0.001)


def test_a_single_call_is_scored_by_itself(gate):
    gate.opened.set()
    batcher = Batcher(gate.score, 8, SystemClock())
    assert [batcher.submit(number, 1, FAR_S) for number in (1, 2)] == [2, 4]
    assert gate.groups == [[1], [2]]


def test_concurrent_calls_are_scored_together_up_to_the_largest_size(gate, pool):
    batcher = Batcher(gate.score, 4, SystemClock())
    first = pool.submit(batcher.submit, 0, 1, FAR_S)
    gate.entered.wait()
    others = []
    for number, size in [(1, 2), (2, 1), (3, 3), (4, 9), (5, 1)]:
        others.append(pool.submit(batcher.submit, number, size, FAR_S))
        queued(batcher, number)
    gate.opened.set()
    assert first.result() == 0 and [future.result() for future in others] == [2, 4, 6, 8, 10]
    assert gate.groups == [[0], [1, 2], [3], [4], [5]]


def test_a_call_whose_deadline_passes_in_the_queue_is_not_scored(gate, pool):
    batcher = Batcher(gate.score, 4, SystemClock())
    first = pool.submit(batcher.submit, 0, 1, FAR_S)
    gate.entered.wait()
    late = pool.submit(batcher.submit, 1, 1, SystemClock().monotonic_s())
    with pytest.raises(TimeoutError):
        late.result()
    gate.opened.set()
    assert first.result() == 0
    assert batcher.submit(2, 1, FAR_S) == 4
    assert gate.groups == [[0], [2]]


def test_a_failure_of_a_single_call_is_its_own():
    def score(group):
        raise RuntimeError(f"{len(group)} failed")

    batcher = Batcher(score, 4, SystemClock())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="1 failed"):
            batcher.submit(1, 1, FAR_S)


class Poisoned(Gate):
    """Fails for a group with the request 13, or returns an error for it."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__()
        self._raises = raises

    def score(self, group):
        results = super().score(group)
        if self._raises and 13 in group:
            raise RuntimeError("13 is bad")
        return [RuntimeError("13 is bad") if one == 13 else result for one, result in zip(group, results, strict=True)]


@pytest.mark.parametrize("raises", [True, False])
def test_a_request_that_cannot_be_scored_fails_alone(pool, raises):
    gate = Poisoned(raises=raises)
    batcher = Batcher(gate.score, 100, SystemClock())
    first = pool.submit(batcher.submit, 0, 1, FAR_S)
    gate.entered.wait()
    others = []
    for count, number in enumerate([1, 13, 2], start=1):
        others.append(pool.submit(batcher.submit, number, 1, FAR_S))
        queued(batcher, count)
    gate.opened.set()
    assert first.result() == 0
    assert [future.exception() or future.result() for future in (others[0], others[2])] == [2, 4]
    with pytest.raises(RuntimeError, match="13 is bad"):
        others[1].result()
    assert batcher.submit(3, 1, FAR_S) == 6


@pytest.mark.parametrize("deadline_s", [9.2e18, float("inf")])
def test_a_caller_may_wait_without_a_deadline(gate, pool, deadline_s):
    """grpcio's 9.2e18 s of two concurrent calls made `Lock.acquire` raise OverflowError, and no later call was ever scored."""
    batcher = Batcher(gate.score, 8, SystemClock())
    calls = [pool.submit(batcher.submit, 0, 1, deadline_s)]
    gate.entered.wait()
    calls.append(pool.submit(batcher.submit, 1, 1, deadline_s))
    queued(batcher, 1)
    gate.opened.set()
    assert [call.result() for call in calls] == [0, 2]
    assert batcher.submit(2, 1, FAR_S) == 4


def test_a_caller_whose_wait_raises_hands_the_lead_on(gate, pool):
    batcher = Batcher(gate.score, 8, SystemClock())
    first = pool.submit(batcher.submit, 0, 1, FAR_S)
    gate.entered.wait()
    caught = []

    def fail() -> None:
        try:
            batcher.submit(1, 1, "no number")
        except Exception as error:
            caught.append(type(error))

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    last = pool.submit(batcher.submit, 2, 1, FAR_S)
    gate.opened.set()
    assert (first.result(), last.result(), caught) == (0, 4, [TypeError])
    assert gate.groups == [[0], [2]]


def test_a_request_whose_caller_has_left_is_not_scored_and_delays_nobody(gate, pool):
    batcher = Batcher(gate.score, 8, SystemClock())
    first = pool.submit(batcher.submit, 0, 1, FAR_S)
    gate.entered.wait()
    left = pool.submit(batcher.submit, 1, 1, FAR_S, lambda: False)
    queued(batcher, 1)
    here = pool.submit(batcher.submit, 2, 1, FAR_S, lambda: True)
    queued(batcher, 2)
    gate.opened.set()
    assert (first.result(), here.result()) == (0, 4)
    with pytest.raises(CancelledError):
        left.result()
    assert gate.groups == [[0], [2]]
    assert batcher.submit(3, 1, FAR_S) == 6


def test_callers_that_leave_at_random_never_stop_the_others(pool, work_factor):
    """Deadlines of a few microseconds, callers that leave, requests that fail: each call ends, and the sound ones have their result."""
    count = 2000 * work_factor

    def score(group):
        if any(one % 7 == 0 for one in group):
            raise RuntimeError("a multiple of 7")
        return [one * one for one in group]

    batcher = Batcher(score, 5, SystemClock())

    def call(number: int):
        deadline_s = SystemClock().monotonic_s() + 2e-5 * (number % 11) if number % 3 == 0 else FAR_S
        return batcher.submit(number, 1, deadline_s, lambda: number % 5 != 0)

    futures = [pool.submit(call, number) for number in range(count)]
    for number, future in enumerate(futures):
        error = future.exception(timeout=60)
        if number % 3 and number % 5 and number % 7:
            assert error is None and future.result() == number * number
        else:
            assert error is None or isinstance(error, (TimeoutError, CancelledError, RuntimeError))
    assert not batcher._queue and not batcher._busy


def test_many_threads_each_get_their_own_result(pool, work_factor):
    count = 2000 * work_factor
    batcher = Batcher(lambda group: [one * one for one in group], 5, SystemClock())
    futures = [pool.submit(batcher.submit, number, 1 + number % 3, FAR_S) for number in range(count)]
    assert [future.result() for future in futures] == [number * number for number in range(count)]
    assert not batcher._queue and not batcher._busy
