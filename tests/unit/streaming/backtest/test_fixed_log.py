"""The view of a log ends where the log ended, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.errors import TopicMissing
from monolith_py.io import Record
from monolith_streaming.backtest.fixed_log import FixedLog


@pytest.fixture
def log(world: Any) -> Any:
    log = world.MemoryLog()
    log.create_topic("a", 2)
    log.append("a", [b"0", b"1", b"2"], time_ms=10)
    return log


def values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]


def test_later_records_are_not_seen(log: Any) -> None:
    view = FixedLog(log, ["a"])
    log.append("a", [b"3"], time_ms=20)
    log.append("a", [b"4"], time_ms=20, partition=1)
    assert values(view.read("a", 0, 1, 100)) == [b"1", b"2"]
    assert view.read("a", 0, 3, 100) == view.read("a", 1, 0, 100) == []
    assert (view.num_partitions("a"), view.start_offset("a"), view.end_offset("a"), view.end_offset("a", 1)) == (2, 0, 3, 0)
    assert (view.offset_at("a", 0, 10), view.offset_at("a", 0, 20)) == (0, 3)


def test_last_offsets_without_a_record_are_waited_for_once(world: Any) -> None:
    class Holes(world.MemoryLog):  # type: ignore[misc]
        num_reads = 0

        def end_offset(self, topic: str, partition: int = 0) -> int:
            return super().end_offset(topic, partition) + 2

        def read(self, *args: Any, **kwargs: Any) -> list[Record]:
            self.num_reads += 1
            return super().read(*args, **kwargs)

    log = Holes()
    log.create_topic("a")
    log.append("a", [b"0"], time_ms=1)
    view = FixedLog(log, ["a"])
    assert values(view.read("a", 0, 0, 100)) == [b"0"]
    assert [view.read("a", 0, 1, 100) for _ in range(3)] == [[], [], []]
    assert log.num_reads == 2


def test_every_change_is_refused(log: Any) -> None:
    view = FixedLog(log, ["a"])
    with pytest.raises(AssertionError, match="takes no record"):
        view.append("a", [b"x"], time_ms=1)
    with pytest.raises(AssertionError, match="deletes no record"):
        view.trim("a", 0, 1)
    with pytest.raises(AssertionError, match="creates no topic"):
        view.create_topic("b")
    view.close()
    assert values(log.read("a", 0, 0, 10)) == [b"0", b"1", b"2"]


def test_a_missing_topic_is_named(log: Any) -> None:
    with pytest.raises(TopicMissing, match="'b'"):
        FixedLog(log, ["a", "b"])
