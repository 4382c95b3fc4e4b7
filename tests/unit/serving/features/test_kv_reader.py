"""Reads of a store that hangs, fails or is slow: a caller waits no longer than it wants."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from monolith_py.clock import ManualClock, SystemClock
from monolith_py.errors import KvError
from monolith_py.io import MemoryKv
from monolith_serving.features import kv_reader
from monolith_serving.features.kv_reader import KvReader


class HangingKv(MemoryKv):
    """A store that accepts reads of keys that begin with "slow" and answers none until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.asked: list[str] = []

    def get_many(self, keys):
        self.asked += keys
        self.entered.release()
        if any(key.startswith("slow") for key in keys):
            self.gate.wait()
        return super().get_many(keys)


@pytest.fixture
def kv() -> Iterator[HangingKv]:
    kv = HangingKv()
    kv.write({"a": b"1"})
    yield kv
    kv.gate.set()


def soon() -> float:
    return SystemClock().monotonic_s() + 0.05


def far() -> float:
    return SystemClock().monotonic_s() + 1e6


def test_values_are_those_of_the_store(kv):
    reader = KvReader(kv, 2, SystemClock())
    assert reader.get_many(["a", "b"], far()) == [b"1", None]
    reader.close()


def test_a_read_that_hangs_is_an_error_at_its_time_and_holds_one_thread_only(kv):
    reader = KvReader(kv, 2, SystemClock())
    with pytest.raises(KvError, match="the store did not answer in"):
        reader.get_many(["slow"], soon())
    assert reader.get_many(["a"], far()) == [b"1"]


def test_a_store_that_hangs_is_not_asked_again_until_it_answers(kv):
    """A stopped Redis took all threads of a replica, and users in the cache with them, for 68 s."""
    clock = ManualClock()
    reader = KvReader(kv, 2, clock)
    for key in ("slow-1", "slow-2"):
        with pytest.raises(KvError, match="did not answer"):
            reader.get_many([key], clock.monotonic_s() + 0.01)
        assert kv.entered.acquire(timeout=60)
    clock.advance(kv_reader._HUNG_S + 0.1)
    with pytest.raises(KvError, match=r"has not answered for 0\.6 s"):
        reader.get_many(["a"], clock.monotonic_s() + 1e6)
    kv.gate.set()
    while reader._num_busy:
        threading.Event().wait(0.001)
    assert reader.get_many(["a"], clock.monotonic_s() + 1e6) == [b"1"]
    assert kv.asked == ["slow-1", "slow-2", "a"]


def test_a_key_that_others_are_reading_is_not_read_again(kv):
    """Each of the threads that missed an entry of the cache at the same time read it: serving.md, row 18."""
    reader = KvReader(kv, 4, SystemClock())
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(reader.get_many, ["slow", "a"], far())
        assert kv.entered.acquire(timeout=60)
        others = [pool.submit(reader.get_many, ["a", "b", "slow"], far()) for _ in range(6)]
        until_s = soon() + 30
        while sum(read.num_waiting for read in set(reader._reads.values())) < 7 and SystemClock().monotonic_s() < until_s:
            threading.Event().wait(0.001)
        kv.gate.set()
        assert first.result() == [None, b"1"] and [one.result() for one in others] == [[b"1", None, None]] * 6
    assert Counter(kv.asked)["slow"] == Counter(kv.asked)["a"] == 1
    assert not reader._reads


def test_a_read_that_is_stuck_is_not_joined(kv):
    """One connection may hang while the others do not."""
    clock = ManualClock()
    reader = KvReader(kv, 2, clock)
    with pytest.raises(KvError):
        reader.get_many(["slow"], clock.monotonic_s() + 0.01)
    assert kv.entered.acquire(timeout=60)
    clock.advance(kv_reader._HUNG_S + 0.1)
    with pytest.raises(KvError):
        reader.get_many(["slow"], clock.monotonic_s() + 0.01)
    assert kv.entered.acquire(timeout=60) and kv.asked == ["slow", "slow"]


def test_a_store_is_not_asked_once_the_time_is_over(kv):
    """The store was said not to have answered in -0.000 s."""
    clock = ManualClock()
    reader = KvReader(kv, 2, clock)
    for until_s in (clock.monotonic_s() + 0.0009, clock.monotonic_s(), clock.monotonic_s() - 1.0):
        with pytest.raises(TimeoutError, match="no time is left"):
            reader.get_many(["a"], until_s)
    assert reader.get_many(["b"], clock.monotonic_s() + 1e6) == [None] and kv.asked == ["b"]


def test_a_read_whose_caller_has_left_is_not_made(kv):
    clock = ManualClock()
    reader = KvReader(kv, 1, clock)
    for keys in (["slow"], ["late"]):
        with pytest.raises(KvError):
            reader.get_many(keys, clock.monotonic_s() + 0.01)
    kv.gate.set()
    assert reader.get_many(["a"], clock.monotonic_s() + 1e6) == [b"1"]
    assert kv.asked == ["slow", "a"]


@pytest.mark.parametrize(("error", "text"), [(KvError("away"), "away"), (TypeError("a bug"), "the store failed: TypeError")])
def test_an_error_of_the_store_is_the_callers_and_ends_no_thread(error, text):
    class FailingKv(MemoryKv):
        def get_many(self, keys):
            if keys == ["bad"]:
                raise error
            return super().get_many(keys)

    reader = KvReader(FailingKv(), 1, SystemClock())
    with pytest.raises(KvError, match=text):
        reader.get_many(["bad"], far())
    assert reader.get_many(["a"], far()) == [None]


def test_a_stop_does_not_wait_for_a_store_that_hangs(kv, monkeypatch):
    monkeypatch.setattr(kv_reader, "_CLOSE_S", 0.05)
    reader = KvReader(kv, 1, SystemClock())
    with pytest.raises(KvError):
        reader.get_many(["slow"], soon())
    reader.close()
