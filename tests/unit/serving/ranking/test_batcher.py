"""Concurrent calls are scored together, a single call by itself, and no call after its deadline."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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


def test_a_failure_reaches_every_call_of_its_group_and_no_other(pool):
    def score(group):
        raise RuntimeError(f"{len(group)} failed")

    batcher = Batcher(score, 4, SystemClock())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="1 failed"):
            batcher.submit(1, 1, FAR_S)


def test_many_threads_each_get_their_own_result(pool, work_factor):
    count = 2000 * work_factor
    batcher = Batcher(lambda group: [one * one for one in group], 5, SystemClock())
    futures = [pool.submit(batcher.submit, number, 1 + number % 3, FAR_S) for number in range(count)]
    assert [future.result() for future in futures] == [number * number for number in range(count)]
    assert not batcher._queue and not batcher._busy
