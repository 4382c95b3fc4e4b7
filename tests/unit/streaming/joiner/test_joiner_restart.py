"""The joiner's start beside another one and with a large state; records that are gone, damaged, or in a new partition."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock, SystemClock
from monolith_py.errors import AlreadyRunning, RecordsDamaged
from monolith_py.io import Log, MemoryKv, Record, open_kv, open_log
from monolith_streaming.joiner import partition_count
from monolith_streaming.joiner.group import Group
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.joiner.position import StateKeys
from monolith_streaming.joiner.process import run_joiner

World = Any
NUM_WAITING = 1000


class Token:
    """Lives as long as the value that holds it."""


class TrackedBytes(bytes):
    token: Token


class TrackingKv(MemoryKv):
    """A store that counts its values that are in use together, and those read."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: weakref.WeakSet[Token] = weakref.WeakSet()
        self.most_alive = self.num_read = 0

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for value in super().get_many(keys):
            tracked = None if value is None else TrackedBytes(value)
            if tracked is not None:
                tracked.token = Token()
                self._alive.add(tracked.token)
                self.num_read += 1
            found.append(tracked)
        self.most_alive = max(self.most_alive, len(self._alive))
        return found


def test_a_joiner_with_a_large_state_starts_without_having_all_of_it_in_memory(world: World) -> None:
    """The state of all waiting requests was in memory at once: faults.md, f26."""
    job = world.job(window_s=100_000, max_records=20)
    log, kv, clock = world.log(job), TrackingKv(), ManualClock(world.now_ms + 1_000)
    world.append(job, log, *(world.impression(f"r{number}", items=range(1, 20)) for number in range(NUM_WAITING)))
    first = world.joiner(job, log, kv, clock)
    ends = first.ends()
    while not first.has_reached(ends):
        first.step()
    first.commit()
    kv.most_alive = kv.num_read = 0
    second = world.joiner(job, log, kv, clock)
    assert sum(partition.joiner.core.num_requests for partition in second._partitions) == NUM_WAITING
    assert kv.num_read >= NUM_WAITING // 20 and 0 < kv.most_alive < 10


def test_partitions_that_are_added_are_read_once_all_topics_have_them(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """They were never read, without a word: faults.md, f23."""
    job = world.job(terminal_actions=["end"])
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop: JoinerLoop = world.joiner(job, log, MemoryKv(), clock)
    for topic in ("actions", "impressions"):
        log.records[topic].append([])
        clock.advance(partition_count._INTERVAL_S)
        loop.step()
        assert "the partitions that one lacks are not read" in caplog.text
        assert {number for number, _ in loop.offsets} == {0}
    world.append(job, log, world.impression("r", 0), world.action("r", "end", 1), partition=1)
    log.records["examples"].append([])
    clock.advance(partition_count._INTERVAL_S)
    while loop.step() == 0:
        clock.advance(1.0)
    assert [request_id for request_id, *_ in world.labels(job, log)] == ["r"]


def test_a_joiner_that_reads_to_the_end_must_be_alone(world: World, tmp_path: Path) -> None:
    """It closes windows that another one still fills."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}", f"sqlite:///{tmp_path / 'kv.db'}", session_timeout_s=0.5)
    with closing(open_log(job.log.url)) as log, closing(open_kv(job.kv.url)) as kv:
        world.create_topics(log, job)
        other = Group(kv, StateKeys(job.name, "examples"), "elsewhere", job.joiner.session_timeout_s, SystemClock())
        lives = threading.Event()
        lives.set()
        other.look(1)
        with ThreadPoolExecutor() as pool:
            beats = pool.submit(lambda: beat(other, lives))
            with pytest.raises(AlreadyRunning, match=r"with --stop-at-end, got \['elsewhere'\]"):
                run_joiner(job, stop_at_end=True)
            lives.clear()
            beats.result()
        run_joiner(job, stop_at_end=True)  # waits for the time-out


def beat(group: Group, lives: threading.Event) -> None:
    while lives.is_set():
        group.beat()


def records_lost(topic: str) -> float:
    return REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": topic}) or 0.0


@pytest.mark.parametrize("topic", ["impressions", "actions"])
def test_records_deleted_before_they_were_read_are_counted_and_passed_over(
    world: World, make_log: Callable[..., Log], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = world.job(terminal_actions=["end"])
    log, kv = make_log(), MemoryKv()
    world.create_topics(log, job)
    first = world.joiner(job, log, kv)  # at offset 0 of both
    for number in range(10):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "end", number))
    log.trim(topic, 0, 4)
    before, ends = records_lost(topic), first.ends()
    while not first.has_reached(ends):
        first.step()
    first.close_all()
    found = {request_id for request_id, *_ in world.labels(job, log)}
    assert found == {f"r{number}" for number in range(4 if topic == "impressions" else 0, 10)}
    assert records_lost(topic) == before + 4
    assert "records lost, reading on at offset 4" in caplog.text


class DamagedLog:
    """A log in memory with a damaged batch in one topic: records 2 to 4."""

    def __init__(self, log: Any, topic: str) -> None:
        self._log, self._topic = log, topic

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        if topic == self._topic and 2 <= offset < 5:
            raise RecordsDamaged(topic, partition, offset, 5, "wrong checksum")
        stop = 2 if topic == self._topic and offset < 2 else offset + max_records
        found: list[Record] = self._log.read(topic, partition, offset, min(max_records, stop - offset), timeout_s)
        return found


def test_records_that_cannot_be_decoded_are_put_aside_and_the_next_are_joined(world: World) -> None:
    job = world.job(terminal_actions=["end"])
    log = world.log(job)
    for number in range(10):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "end", number))
    before = records_lost("impressions")
    world.join(job, DamagedLog(log, "impressions"))
    assert {request_id for request_id, *_ in world.labels(job, log)} == {f"r{number}" for number in (0, 1, 5, 6, 7, 8, 9)}
    assert records_lost("impressions") == before + 3
    assert ("impressions", 4, "'impressions'[0]: records 2 to 4 cannot be read: wrong checksum") in world.dead_letters(job, log)


def test_a_start_with_other_tasks_writes_no_waiting_request_again(world: World) -> None:
    job = world.job()
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, *(world.impression(f"r{number}", number) for number in range(5)), world.action("r0", "click", 1))
    first = world.joiner(job, log, kv)
    first.step()
    first.commit()
    before = dict(kv.scan("joiner:test:examples:block:"))
    world.joiner(job.model_copy(update={"tasks": job.tasks[::-1]}), log, kv)
    assert dict(kv.scan("joiner:test:examples:block:")) == before != {}


def test_an_action_whose_impression_comes_after_a_run_to_the_end_is_in_its_label(world: World) -> None:
    """A replica may append an impression later than the app its click, and a run may end in between: it was learnt as a negative."""
    job = world.job()
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, world.action("r", "click", 1), world.impression("other"))
    world.join(job, log, kv)
    assert world.labels(job, log) == [("other", 1, "LABELLED", (0, 0))] and world.dead_letters(job, log) == []
    world.append(job, log, world.impression("r"))
    world.join(job, log, kv)
    assert world.labels(job, log)[1:] == [("r", 1, "LABELLED", (1, 0))]
    world.append(job, log, world.action("s", "click", 1))
    world.pass_time(job, log, 200)
    world.join(job, log, kv)
    assert [letter[:2] for letter in world.dead_letters(job, log)] == [("actions", 1)], "refused once its wait is over"
