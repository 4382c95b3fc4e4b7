"""A step of the joiner is committed after `linger_s`, or with enough records or examples; after a pause an example does not wait."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.io import MemoryKv

World = Any
NOW_MS = 1_700_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_MS + 1_000_000)


def click(world: World, number: int) -> tuple[Any, Any]:
    """Return an impression and the actions that make an example of it at once."""
    return world.impression(f"r{number}", at_s=number / 1000), world.action(f"r{number}", "end", at_s=number / 1000)


def joiner_of(world: World, clock: ManualClock, num_examples: int, **settings: Any) -> tuple[Any, Any, Any]:
    job = world.job(terminal_actions=["end"], **settings)
    log = world.log(job)
    events = [click(world, number) for number in range(num_examples)]
    world.append(job, log, *(impression for impression, _ in events), *(action for _, action in events))
    return job, log, world.joiner(job, log, clock=clock)


def committed(kv: MemoryKv) -> dict[str, bytes]:
    """Return the entries of the store but for the joiner's signs of life."""
    return {key: value for key, value in kv.scan("") if ":member:" not in key}


def test_a_step_is_committed_after_the_linger(world: World, clock: ManualClock) -> None:
    job, log, loop = joiner_of(world, clock, 3, linger_s=2.0)
    loop.step()
    clock.advance(1.9)
    loop.step()
    assert world.batches(job, log) == []
    clock.advance(0.2)
    loop.step()
    assert [len(batch) for batch in world.batches(job, log)] == [3]


def test_examples_after_a_pause_are_committed_at_once_and_the_next_ones_after_the_linger(world: World, clock: ManualClock) -> None:
    job, log, loop = joiner_of(world, clock, 0, linger_s=2.0)
    loop.step()
    clock.advance(100.0)
    world.append(job, log, *click(world, 1))
    loop.step()
    assert len(world.batches(job, log)) == 1
    clock.advance(0.5)
    world.append(job, log, *click(world, 2))
    loop.step()
    clock.advance(1.4)
    world.append(job, log, *click(world, 3))
    loop.step()
    assert len(world.batches(job, log)) == 1
    clock.advance(0.2)
    loop.step()
    assert [len(batch) for batch in world.batches(job, log)] == [1, 2]


def test_records_without_examples_are_committed_after_the_linger_and_delay_no_example(world: World, clock: ManualClock) -> None:
    job, kv = world.job(terminal_actions=["end"], linger_s=2.0), MemoryKv()
    log = world.log(job)
    loop = world.joiner(job, log, kv, clock)
    clock.advance(100.0)
    impression, end = click(world, 1)
    world.append(job, log, impression)
    before = committed(kv)
    loop.step()
    clock.advance(1.9)
    loop.step()
    assert committed(kv) == before
    clock.advance(0.2)
    loop.step()
    assert committed(kv) != before
    world.append(job, log, end)
    loop.step()
    assert [len(batch) for batch in world.batches(job, log) if len(batch)] == [1]


def test_a_step_with_max_records_is_committed_at_once_and_reads_no_more_of_a_topic(world: World, clock: ManualClock) -> None:
    job, log, loop = joiner_of(world, clock, 10, linger_s=60.0, max_records=4)
    # Actions are read first and wait for their impressions: 4 of each, then the rest.
    assert loop.step() == 8
    assert sum(map(len, world.batches(job, log))) == 4
    loop.step()
    assert sum(map(len, world.batches(job, log))) == 8


def test_examples_enough_for_a_record_are_committed_at_once(world: World, clock: ManualClock) -> None:
    job, log, loop = joiner_of(world, clock, 7, linger_s=60.0, examples_per_record=3)
    loop.step()
    assert [len(batch) for batch in world.batches(job, log)] == [3, 3, 1]
    world.append(job, log, *click(world, 7), *click(world, 8))
    loop.step()
    assert len(world.batches(job, log)) == 3, "two examples wait for a third or for the linger"


def test_an_idle_joiner_commits_nothing(world: World, clock: ManualClock) -> None:
    job, log, loop = joiner_of(world, clock, 1, linger_s=0.0)
    loop.step()
    assert len(world.batches(job, log)) == 1
    for _ in range(3):
        clock.advance(1.0)
        assert loop.step() == 0
    assert len(world.batches(job, log)) == 1


def test_a_joiner_that_has_an_action_does_not_wait_for_impressions(world: World, clock: ManualClock) -> None:
    waits: list[tuple[str, float]] = []

    class NotingLog(world.MemoryLog):
        def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> Any:
            waits.append((topic, timeout_s))
            return super().read(topic, partition, offset, max_records)

    job, log = world.job(terminal_actions=["end"]), NotingLog()
    world.create_topics(log, job)
    loop = world.joiner(job, log, clock=clock)
    loop.step()
    waits.clear()
    loop.step()
    assert [topic for topic, timeout_s in waits if timeout_s] == ["actions", "impressions"]
    assert max(timeout_s for _, timeout_s in waits) <= 0.01, "a click waits for a read of impressions"
    waits.clear()
    world.append(job, log, click(world, 1)[1])
    loop.step()
    assert [topic for topic, timeout_s in waits if timeout_s] == ["actions"]
