"""Gauges of the joiner: the lag of each input, steps with records, the size of the state."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.io import MemoryKv
from monolith_streaming.joiner.gauges import JoinerGauges, MeasuredKv
from monolith_streaming.joiner.loop import JoinerLoop

World = Any


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"monolith_{name}", labels) or 0.0


def test_the_lag_of_each_input_is_that_of_its_partition(world: World) -> None:
    job = world.job(partitions=2)
    log, clock, kv = world.log(job), ManualClock(world.now_ms + 86_400_000), MeasuredKv(MemoryKv(), "joiner:test:examples:waiting:")
    loop = JoinerLoop(job, log, kv, clock)
    loop.start()
    gauges = JoinerGauges(loop, kv, clock)
    world.append(job, log, world.impression("a", 0), world.impression("b", 1), partition=1)
    world.append(job, log, world.action("a", "click", 1), partition=0)
    gauges.report()
    assert sample("input_lag_records", topic="impressions", partition="1") == 2
    assert sample("input_lag_records", topic="actions", partition="0") == 1
    steps = sample("joiner_step_duration_seconds_count")
    while gauges.step():
        pass
    assert sample("joiner_step_duration_seconds_count") > steps
    loop.commit()
    gauges.report()
    assert sample("input_lag_records", topic="impressions", partition="1") == 0
    assert sample("joiner_requests") == loop.num_requests > 0


def test_the_bytes_of_the_state_are_those_in_the_store(world: World) -> None:
    job = world.job()
    store = MemoryKv()
    log, clock, kv = world.log(job), ManualClock(world.now_ms + 86_400_000), MeasuredKv(store, "joiner:test:examples:waiting:")
    loop = JoinerLoop(job, log, kv, clock)
    loop.start()
    world.append(job, log, *(world.impression(f"r{number:02d}", number, items=(1, 2, 3)) for number in range(50)))
    while loop.step():
        pass
    loop.commit()
    JoinerGauges(loop, kv, clock).report()
    held = sum(len(key) + len(value) for key, value in store.scan("joiner:test:examples:waiting:"))
    assert held > 0
    assert abs(sample("joiner_state_bytes") - held) < 0.05 * held
