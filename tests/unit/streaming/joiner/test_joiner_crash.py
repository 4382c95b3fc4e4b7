"""Killed before, within and after each write, the joiner emits every example exactly once and counts it exactly once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from monolith_py.data.counters import LiveCounters
from monolith_py.errors import KvError, LogError
from monolith_py.io import Kv, MemoryKv

World = Any
SETTINGS = {
    "partitions": 2,
    "max_records": 5,
    "examples_per_record": 2,
    "terminal_actions": ["end"],
    "negative_rate": 0.6,
    "counters": {"enabled": True, "keys": ["user", "tags"]},
}


def stream(world: World, job: Any, num_requests: int = 30) -> Any:
    """A log with positives, negatives, retractions, repeats, actions before their impression and faults."""
    log = world.log(job)
    rng = random.Random(7)
    for index in range(num_requests):
        partition, at_s, request_id = index % 2, index * 40.0, f"r{index}"
        impression = world.impression(request_id, at_s, items=(index % 5, 7))
        click = world.action(request_id, "click", at_s + 3, item=index % 5)
        late = world.action(request_id, "like", at_s + 150, item=7)
        end = world.action(request_id, "end", at_s + 5, item=index % 5)
        events = [impression, *rng.sample([click, end, late, world.action(request_id, "click", at_s, item=99)], k=rng.randint(0, 4))]
        if index % 3 == 0:
            events = [*events[1:], *events]
        world.append(job, log, *events, partition=partition)
    return log


def outcome(world: World, job: Any, log: Any, kv: Kv) -> tuple[Counter[Any], dict[str, list[list[int]]]]:
    counters = LiveCounters.of(job)
    return world.examples(job, log), {key: counters.decode(value).tolist() for key, value in kv.scan("counter:")}


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Any:
    job = world.job(**SETTINGS)
    log, kv, fuse = stream(world, job), MemoryKv(), world.Fuse(1_000_000)
    world.join(job, world.FailingLog(log, fuse), world.FailingKv(kv, fuse))
    examples, counted = outcome(world, job, log, kv)
    assert sum(examples.values()) > 20
    assert {kind for _, _, kind, *_ in examples} == {0, 1}
    assert max(examples.values()) == 1
    return examples, counted, fuse.passed


def test_counters_are_those_of_the_stream_not_of_the_sample(world: World, undisturbed: Any) -> None:
    examples, counted, _ = undisturbed
    # Every request shows an item 7 with one tag: 30 candidates, of which only a part went out.
    assert counted["counter:test::tags:70"][0][0] == 30
    assert sum(1 for _, item, kind, *_ in examples if item == 7 and kind == 0) < 30
    assert counted["counter:test::tags:70"][1][1] == sum(labels[1] for _, item, _, labels, *_ in examples if item == 7)


def test_a_joiner_killed_at_any_moment_emits_and_counts_every_example_once(world: World, undisturbed: Any) -> None:
    examples, counted, num_moments = undisturbed
    job = world.job(**SETTINGS)
    assert num_moments > 100
    for moment in range(num_moments):  # all of them
        log, kv, fuse = stream(world, job), MemoryKv(), world.Fuse(moment)
        with pytest.raises(world.Killed):
            world.join(job, world.FailingLog(log, fuse), world.FailingKv(kv, fuse))
        world.join(job, log, kv)
        assert outcome(world, job, log, kv) == (examples, counted), f"killed at moment {moment}"


def test_a_joiner_killed_again_and_again_emits_every_example_once(world: World, undisturbed: Any) -> None:
    examples, counted, _ = undisturbed
    job = world.job(**SETTINGS)
    for seed in range(20):
        rng = random.Random(seed)
        log, kv, num_kills = stream(world, job), MemoryKv(), 0
        while True:
            fuse = world.Fuse(rng.randint(0, 16))
            try:
                world.join(job, world.FailingLog(log, fuse), world.FailingKv(kv, fuse))
                break
            except world.Killed:
                num_kills += 1
                assert num_kills < 1000
        assert num_kills > 3
        assert outcome(world, job, log, kv) == (examples, counted), f"seed {seed}"


def test_a_window_may_close_before_and_after_a_crash_in_other_batches(world: World, undisturbed: Any) -> None:
    """A computation after a crash may read more records at once; the examples in the log still are those of one computation."""
    job = world.job(**SETTINGS)
    other_job = world.job(**(SETTINGS | {"max_records": 1000, "examples_per_record": 256}))
    examples, counted, num_moments = undisturbed
    for moment in range(0, num_moments, 7):
        log, kv, fuse = stream(world, job), MemoryKv(), world.Fuse(moment)
        with pytest.raises(world.Killed):
            world.join(job, world.FailingLog(log, fuse), world.FailingKv(kv, fuse))
        world.join(other_job, log, kv)
        assert outcome(world, job, log, kv) == (examples, counted), f"killed at moment {moment}"


def test_a_store_that_fails_once_is_retried_and_nothing_doubles(world: World, undisturbed: Any) -> None:
    examples, counted, num_moments = undisturbed
    job = world.job(**SETTINGS)
    for moment in range(0, num_moments, 3):
        log, kv = stream(world, job), MemoryKv()
        log_fuse, kv_fuse = world.Fuse(moment // 2, lambda: LogError("away")), world.Fuse(moment // 3, lambda: KvError("away"))
        world.join(job, world.FailingLog(log, log_fuse), world.FailingKv(kv, kv_fuse))
        assert outcome(world, job, log, kv) == (examples, counted), f"failed at moment {moment}"


def test_a_store_that_stays_away_ends_the_process(world: World) -> None:
    class AwayKv(MemoryKv):
        def get_many(self, keys: Any) -> Any:
            raise KvError("away")

    job = world.job()
    with pytest.raises(KvError, match="away"):
        world.joiner(job, world.log(job), AwayKv())
