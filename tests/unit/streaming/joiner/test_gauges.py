"""Gauges of the joiner: the lag of each input, steps with records, the size of the state."""

from __future__ import annotations

from typing import Any

from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.io import MemoryKv
from monolith_py.io.codec import encode_impression
from monolith_streaming.joiner.gauges import JoinerGauges
from monolith_streaming.joiner.loop import JoinerLoop

World = Any


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"monolith_{name}", labels) or 0.0


def test_the_lag_of_each_input_is_that_of_its_partition(world: World) -> None:
    job = world.job(partitions=2)
    log, clock = world.log(job), ManualClock(world.now_ms + 86_400_000)
    loop = JoinerLoop(job, log, MemoryKv(), clock)
    loop.start()
    gauges = JoinerGauges(loop, clock)
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


def test_the_bytes_of_the_state_follow_the_requests_remembered(world: World) -> None:
    job = world.job()
    log, clock = world.log(job), ManualClock(world.now_ms + 86_400_000)
    loop = JoinerLoop(job, log, MemoryKv(), clock)
    loop.start()
    empty_bytes = loop.num_bytes
    impressions = [world.impression(f"r{number:04d}", number / 100, items=range(40)) for number in range(1000)]
    raw_bytes = sum(len(encode_impression(one)) for one in impressions)
    world.append(job, log, *impressions)
    while loop.step():
        pass
    JoinerGauges(loop, clock).report()
    assert raw_bytes < sample("joiner_state_bytes") < 3 * raw_bytes
    world.append(job, log, world.impression("last", 5000), world.action("x", "click", 5000))
    while loop.step() or loop.num_requests > 2:
        pass
    JoinerGauges(loop, clock).report()
    assert sample("joiner_requests") == 2
    assert empty_bytes < sample("joiner_state_bytes") < 0.1 * raw_bytes
