"""The examples of a stream are the same however it is read: live, as a backlog, killed and restarted, or replayed."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action, Impression
from monolith_py.io import Log, MemoryKv, MemoryLog
from monolith_py.io.codec import encode_action, encode_impression
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic
from monolith_streaming.replay.join import Joining, ShardJoiner
from monolith_streaming.replay.source import Input, Range, shards_of

World = Any
Arrivals = list[tuple[float, int, Impression | Action]]  # time, partition, event
DAY_S = 86_400.0


@dataclass(frozen=True)
class Lateness:
    """Delays and clocks of a stream."""

    late_share: float = 0.5
    late_s: float = 400.0
    days_share: float = 0.0  # of events that come up to three days late
    ahead_share: float = 0.0  # of events whose clock is up to `ahead_s` ahead
    ahead_s: float = 250.0


def arrivals_of(world: World, rng: random.Random, num_requests: int, gap_s: float, lateness: Lateness, partitions: int = 1) -> Arrivals:
    """Return a stream in the order of arrival: one request every `gap_s`, up to three actions on each, within the window or after it."""
    arrivals: Arrivals = []

    def arrive(at_s: float, partition: int, event: Callable[[float], Impression | Action]) -> None:
        clock_s = at_s + (rng.uniform(0, lateness.ahead_s) if rng.random() < lateness.ahead_share else 0.0)
        delay_s = rng.uniform(0, lateness.late_s) if rng.random() < lateness.late_share else 0.0
        if rng.random() < lateness.days_share:
            delay_s = rng.uniform(0, 3 * DAY_S)
        arrivals.append((at_s + delay_s, partition, event(clock_s)))

    for number in range(num_requests):
        at_s, partition, request_id = number * gap_s, number % partitions, f"r{number}"
        items = rng.sample(range(1, 6), k=rng.randint(1, 3))
        arrive(at_s, partition, lambda clock_s, r=request_id, i=items: world.impression(r, clock_s, i))
        for kind in rng.choices(["click", "like", "end", "all"], [6, 6, 1, 1], k=rng.choice([0, 1, 1, 2, 3])):
            acted_s = at_s + rng.choice([rng.uniform(0, 60), rng.uniform(60, 130), rng.uniform(90, 1200)])
            item = rng.choice(items)
            for _ in range(rng.choice([1, 1, 1, 2])):
                arrive(acted_s, partition, lambda clock_s, r=request_id, k=kind, i=item: world.action(r, k, clock_s, i))
    return sorted(arrivals, key=lambda arrival: arrival[0])


def job_of(world: World, **changes: Any) -> JobConfig:
    rules = {"terminal_actions": ["end"], "request_terminal_actions": ["all"], "negative_rate": 0.5, "agreeing_records": 5}
    job: JobConfig = world.job(**(rules | {"idle_timeout_s": 1e9} | changes))
    return job


def appended(job: JobConfig, log: Log, arrivals: Arrivals) -> None:
    """Append all arrivals, each topic and partition in one go."""
    topics = Topics.of(job.log)
    records: dict[tuple[str, int], list[tuple[bytes, int]]] = {}
    for _, partition, event in arrivals:
        is_impression = isinstance(event, Impression)
        value = encode_impression(event) if isinstance(event, Impression) else encode_action(event)
        records.setdefault((topics.impressions if is_impression else topics.actions, partition), []).append((value, event.time_ms))
    for (topic, partition), pairs in records.items():
        log.append(topic, [value for value, _ in pairs], time_ms=[time_ms for _, time_ms in pairs], partition=partition)


def live(world: World, job: JobConfig, arrivals: Arrivals, steps_s: float = 0.0) -> tuple[MemoryLog, Counter[Any]]:
    """Append and join as the events arrive, in lots of `steps_s` or event by event; return the log and the examples."""
    log, clock = world.log(job), ManualClock(world.now_ms)
    joiner = world.joiner(job, log, clock=clock)
    for at_s, lot in groupby(arrivals, lambda arrival: arrival[0] if steps_s == 0 else (arrival[0] // steps_s + 1) * steps_s):
        clock.advance(at_s - (clock.now_ms() - world.now_ms) / 1000)
        appended(job, log, list(lot))
        joiner.step()
    finish(joiner)
    return log, world.examples(job, log)


def finish(joiner: Any) -> None:
    """Join all that the log has, then close all windows."""
    ends = joiner.ends()
    while not joiner.has_reached(ends):
        joiner.step()
    joiner.close_all()


def backlog(world: World, job: JobConfig, arrivals: Arrivals) -> Counter[Any]:
    """Join all events at once, long after they have happened."""
    log = world.log(job)
    appended(job, log, arrivals)
    world.join(job, log)
    examples: Counter[Any] = world.examples(job, log)
    return examples


def killed(world: World, job: JobConfig, arrivals: Arrivals, rng: random.Random) -> Counter[Any]:
    """Join while events arrive in lots; kill the joiner now and then, and lose its store sometimes."""
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    joiner = world.joiner(job, log, kv, clock)
    stale = None
    begin = 0
    while begin < len(arrivals):
        end = begin + rng.choice([1, 7, 60, 400])
        appended(job, log, arrivals[begin:end])
        begin = end
        for _ in range(rng.randrange(4)):
            joiner.step()
        if rng.random() < 0.2:
            kv = rng.choice([kv, kv, MemoryKv(), stale or kv])
            joiner = world.joiner(job, log, kv, clock)
        if rng.random() < 0.1:
            stale = MemoryKv()
            stale.write(dict(kv.scan("")))
    finish(joiner)
    examples: Counter[Any] = world.examples(job, log)
    return examples


def replayed(world: World, job: JobConfig, log: Log, shard_s: float = 1e9) -> Counter[Any]:
    """Join the log again, in shards of `shard_s`."""
    topics = Topics.of(job.log)
    source = Input({InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions})
    joining = Joining(job, source, log, {}, 2_000_000_000_000, 1_000_000, lambda *_: None)
    within = Range(world.now_ms - 1, world.now_ms + 10 * 86_400_000)
    for partition in range(job.log.partitions):
        for shard in shards_of(within, Rules.of(job), round(shard_s * 1000)):
            for step in ShardJoiner(joining, partition, shard).steps():
                if step.values:
                    log.append("replayed", step.values, time_ms=1, partition=0)
    examples: Counter[Any] = world.examples(job, log, "replayed")
    return examples


LATE = Lateness()
CASES = {
    "half of the events up to 400 s late": LATE,
    "one in a thousand days late": Lateness(late_s=8, days_share=0.001),
    "clocks ahead": Lateness(late_share=0.2, ahead_share=0.1),
    "everything": Lateness(days_share=0.002, ahead_share=0.05),
}


@pytest.mark.parametrize("case", CASES)
def test_the_examples_do_not_depend_on_how_the_stream_is_read(world: World, case: str) -> None:
    """A joiner with a backlog dragged the neighbours of a straggler forward: about 1 % of the examples differed."""
    rng = random.Random(case)
    arrivals = arrivals_of(world, rng, 500, 0.5, CASES[case])
    job = job_of(world)
    log, expected = live(world, job, arrivals)
    num_retracted = sum(count for (_, _, kind, *_), count in expected.items() if kind == 1)
    assert num_retracted > 40
    assert live(world, job, arrivals, steps_s=20.0)[1] == expected
    assert backlog(world, job, arrivals) == expected
    assert backlog(world, job_of(world, max_records=3), arrivals) == expected
    assert killed(world, job_of(world, max_records=rng.choice([5, 2000])), arrivals, rng) == expected
    log.create_topic("replayed", 1)
    assert replayed(world, job, log) == expected


def test_twenty_thousand_events_half_of_them_late(world: World) -> None:
    rng = random.Random(7)
    arrivals = arrivals_of(world, rng, 7600, 0.5, LATE)
    assert len(arrivals) > 20_000
    job = job_of(world, linger_s=30)
    log, expected = live(world, job, arrivals, steps_s=2.0)
    assert backlog(world, job, arrivals) == expected
    log.create_topic("replayed", 1)
    assert replayed(world, job, log, shard_s=900) == expected


# In `make test`; `make drills` tries more.
MOST_STREAMS = int(os.environ.get("MONOLITH_LATE_STREAMS", "40"))
LATENESS = st.builds(
    Lateness,
    late_share=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    late_s=st.sampled_from([5.0, 50.0, 400.0, 3000.0]),
    days_share=st.sampled_from([0.0, 0.01]),
    ahead_share=st.sampled_from([0.0, 0.05, 0.3]),
    ahead_s=st.sampled_from([20.0, 250.0]),
)
RULES = st.fixed_dictionaries(
    {
        "window_s": st.sampled_from([1, 20, 100]),
        "allowed_lateness_s": st.sampled_from([0, 50, 1000]),
        "max_out_of_orderness_s": st.sampled_from([0, 10]),
        "agreeing_records": st.sampled_from([1, 2, 5, 8]),
        "emit": st.sampled_from(["candidate", "request"]),
        "late": st.sampled_from(["retract", "drop"]),
        "negative_rate": st.sampled_from([1.0, 0.5]),
    }
)


@settings(max_examples=MOST_STREAMS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(LATENESS, RULES, st.integers(0, 2**32), st.sampled_from([1, 2]), st.sampled_from([0.2, 3.0]))
def test_random_streams_and_rules_give_the_same_examples_however_they_are_read(
    world: World, lateness: Lateness, rules: dict[str, Any], seed: int, partitions: int, gap_s: float
) -> None:
    rng = random.Random(seed)
    arrivals = arrivals_of(world, rng, rng.randrange(5, 20), gap_s, lateness, partitions)
    job = job_of(world, partitions=partitions, **rules)
    log, expected = live(world, job_of(world, partitions=partitions, linger_s=rng.choice([0, 60]), **rules), arrivals)
    tiny = job_of(world, partitions=partitions, max_records=rng.choice([1, 3, 40]), **rules)
    assert backlog(world, job, arrivals) == expected
    assert backlog(world, tiny, arrivals) == expected
    assert killed(world, tiny, arrivals, rng) == expected
    log.create_topic("replayed", 1)
    assert replayed(world, job, log) == expected
