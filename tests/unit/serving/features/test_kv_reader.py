"""Reads of a store that hangs, fails or is slow: a caller waits no longer than it wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator

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
    for _ in range(2):
        with pytest.raises(KvError, match="did not answer"):
            reader.get_many(["slow"], clock.monotonic_s() + 0.01)
        assert kv.entered.acquire(timeout=60)
    clock.advance(kv_reader._HUNG_S + 0.1)
    with pytest.raises(KvError, match=r"has not answered for 0\.6 s"):
        reader.get_many(["a"], clock.monotonic_s() + 1e6)
    kv.gate.set()
    while reader._num_busy:
        threading.Event().wait(0.001)
    assert reader.get_many(["a"], clock.monotonic_s() + 1e6) == [b"1"]
    assert kv.asked == ["slow", "slow", "a"]


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
