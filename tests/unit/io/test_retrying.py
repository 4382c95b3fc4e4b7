"""Failed calls are retried with growing pauses for a stated time; appends are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.errors import KvError, LogError, OffsetTrimmed, TopicMissing
from monolith_py.io import MemoryKv, MemoryLog, Record, Writer
from monolith_py.io.retrying import RETRY_S, RetryingKv, RetryingLog, RetryPolicy


class Failing:
    """An operation that fails `times` times, then returns 7; notes when it runs."""

    def __init__(self, clock: ManualClock, error: Exception, times: int) -> None:
        self.clock, self.error, self.left = clock, error, times
        self.ran_s: list[float] = []

    def __call__(self) -> int:
        self.ran_s.append(self.clock.monotonic_s())
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return 7


@pytest.mark.parametrize("error", [LogError("away"), KvError("away")])
def test_an_operation_is_retried_until_it_succeeds(error: Exception) -> None:
    clock = ManualClock()
    operation = Failing(clock, error, 5)
    assert RetryPolicy(clock).run(operation) == 7
    assert len(operation.ran_s) == 6


def test_pauses_double_up_to_two_seconds() -> None:
    clock = ManualClock()
    operation = Failing(clock, LogError("away"), 9)
    RetryPolicy(clock).run(operation)
    pauses = [after - before for before, after in zip(operation.ran_s, operation.ran_s[1:], strict=False)]
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])


@pytest.mark.parametrize("error", [LogError("away"), KvError("away")])
def test_the_last_attempt_begins_within_the_time_and_its_error_is_raised(error: Exception) -> None:
    clock = ManualClock()
    operation = Failing(clock, error, 1_000_000)
    with pytest.raises(type(error), match="away"):
        RetryPolicy(clock).run(operation)
    assert RETRY_S - 2.0 <= operation.ran_s[-1] <= RETRY_S
    assert clock.monotonic_s() == operation.ran_s[-1], "no pause after the last attempt"


def test_each_run_has_the_whole_time() -> None:
    clock = ManualClock()
    policy = RetryPolicy(clock)
    for _ in range(2):
        assert policy.run(Failing(clock, LogError("away"), 20)) == 7
        clock.advance(RETRY_S)


def test_attempts_that_take_long_count_towards_the_time() -> None:
    clock = ManualClock()
    attempts = []

    def operation() -> None:
        attempts.append(clock.monotonic_s())
        clock.advance(40.0)
        raise LogError("away")

    with pytest.raises(LogError):
        RetryPolicy(clock).run(operation)
    assert len(attempts) == 2 and clock.monotonic_s() < RETRY_S + 40.0


@pytest.mark.parametrize("error", [TopicMissing("t"), OffsetTrimmed("t", 0, 1, 2), ValueError("wrong"), KeyError("wrong")])
def test_an_error_that_no_pause_cures_is_raised_at_once(error: Exception) -> None:
    clock = ManualClock()
    operation = Failing(clock, error, 1)
    with pytest.raises(type(error)):
        RetryPolicy(clock).run(operation)
    assert operation.ran_s == [0.0] and clock.monotonic_s() == 0.0


def test_a_stop_ends_the_attempts() -> None:
    clock = ManualClock()
    operation = Failing(clock, LogError("away"), 1_000)
    with pytest.raises(LogError, match="away"):
        RetryPolicy(clock, should_stop=lambda: clock.monotonic_s() > 5.0).run(operation)
    assert 5.0 < operation.ran_s[-1] <= 7.0


def test_a_process_that_stops_still_gets_one_attempt() -> None:
    clock = ManualClock()
    assert RetryPolicy(clock, should_stop=lambda: True).run(Failing(clock, LogError("away"), 0)) == 7


class FailingLog:
    """A Log in which every call fails `times` times; notes the calls."""

    def __init__(self, times: int) -> None:
        self.left, self.calls = times, list[tuple[str, tuple[Any, ...]]]()

    def _call(self, name: str, *given: Any) -> None:
        self.calls.append((name, given))
        self.left -= 1
        if self.left >= 0:
            raise LogError("away")

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        self._call("create_topic", topic, num_partitions)

    def num_partitions(self, topic: str) -> int:
        self._call("num_partitions", topic)
        return 3

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        self._call("append", topic, values, time_ms, partition)
        return 8

    def writer(self, topic: str, partition: int, name: str) -> Writer:
        self._call("writer", topic, partition, name)
        log = MemoryLog()
        log.create_topic(topic)
        return log.writer(topic, 0, name)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        self._call("read", topic, partition, offset, max_records, timeout_s)
        return [Record(topic, partition, offset, 1, b"a")]

    def start_offset(self, topic: str, partition: int = 0) -> int:
        self._call("start_offset", topic, partition)
        return 4

    def end_offset(self, topic: str, partition: int = 0) -> int:
        self._call("end_offset", topic, partition)
        return 5

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        self._call("offset_at", topic, partition, time_ms)
        return 6

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        self._call("trim", topic, partition, before_offset)

    def close(self) -> None:
        self._call("close")


CALLS: dict[str, tuple[Callable[[RetryingLog], Any], tuple[Any, ...], Any]] = {
    "create_topic": (lambda log: log.create_topic("t", 3), ("t", 3), None),
    "num_partitions": (lambda log: log.num_partitions("t"), ("t",), 3),
    "read": (lambda log: log.read("t", 2, 9, 10, 0.5), ("t", 2, 9, 10, 0.5), [Record("t", 2, 9, 1, b"a")]),
    "start_offset": (lambda log: log.start_offset("t", 2), ("t", 2), 4),
    "end_offset": (lambda log: log.end_offset("t", 2), ("t", 2), 5),
    "offset_at": (lambda log: log.offset_at("t", 2, 77), ("t", 2, 77), 6),
    "trim": (lambda log: log.trim("t", 2, 9), ("t", 2, 9), None),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_log_retries_each_call_but_appends(name: str) -> None:
    call, given, expected = CALLS[name]
    inner = FailingLog(times=3)
    assert call(RetryingLog(inner, RetryPolicy(ManualClock()))) == expected
    assert inner.calls == [(name, given)] * 4


def test_a_failed_append_is_not_retried() -> None:
    inner, clock = FailingLog(times=1), ManualClock()
    log = RetryingLog(inner, RetryPolicy(clock))
    with pytest.raises(LogError, match="away"):
        log.append("t", [b"a"], time_ms=1, partition=2)
    assert inner.calls == [("append", ("t", [b"a"], 1, 2))] and clock.monotonic_s() == 0.0
    assert log.append("t", [b"a"], time_ms=1, partition=2) == 8


def test_closing_is_not_retried() -> None:
    inner = FailingLog(times=1)
    with pytest.raises(LogError):
        RetryingLog(inner, RetryPolicy(ManualClock())).close()
    assert len(inner.calls) == 1


class FailingKv(MemoryKv):
    """A store in memory in which calls fail `times` times, a scan after its first entry."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def _fail(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise KvError("away")

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._fail()
        return super().get_many(keys)

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes] | None = None) -> None:
        super().write(puts, deletes, expect)
        self._fail()

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        for number, entry in enumerate(super().scan(prefix)):
            if number == 1:
                self._fail()
            yield entry


def test_a_store_retries_each_call() -> None:
    inner = FailingKv(times=2)
    kv = RetryingKv(inner, RetryPolicy(ManualClock()))
    kv.write({"a": b"1", "b": b"2", "c": b"3"}, ["c"])
    inner.left = 2
    assert kv.get_many(["a", "c"]) == [b"1", None]


def test_a_scan_that_fails_in_the_middle_yields_each_entry_once() -> None:
    inner = FailingKv(times=0)
    kv = RetryingKv(inner, RetryPolicy(ManualClock()))
    kv.write({"a:1": b"1", "a:2": b"2", "b": b"3"})
    inner.left = 2
    assert sorted(kv.scan("a:")) == [("a:1", b"1"), ("a:2", b"2")]


def test_a_closed_store_is_closed_underneath() -> None:
    inner = FailingKv(times=0)
    kv = RetryingKv(inner, RetryPolicy(ManualClock()))
    kv.write({"a": b"1"})
    kv.close()
    assert inner.get_many(["a"]) == [None]
