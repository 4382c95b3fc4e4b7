"""A joiner whose store is of any age, or empty, goes on after the last step in the log: every example once, counted once."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.counters import LiveCounters
from monolith_py.data.label_bits import LabelBits
from monolith_py.io import Kv, MemoryKv, MemoryLog
from monolith_streaming.joiner import recovery, tail
from monolith_streaming.joiner.position import Position, Progress

World = Any
BASE = {"partitions": 2, "max_records": 7, "examples_per_record": 3, "terminal_actions": ["end"]}
CASES = {
    "candidate": {"negative_rate": 0.6, "counters": {"enabled": True, "keys": ["user", "tags"]}},
    "request": {"emit": "request", "counters": {"enabled": True, "keys": ["user", "tags"]}},
    "drop": {"negative_rate": 0.5, "late": "drop"},
    "whole requests end": {"emit": "request", "request_terminal_actions": ["stop"], "negative_rate": 0.7},
    "no lateness": {"allowed_lateness_s": 0},
}


@pytest.fixture(autouse=True)
def _facts_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "_PART_REQUESTS", 4)


class AgingKv(MemoryKv):
    """A store that keeps a copy of itself after each write."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[dict[str, bytes]] = [{}]

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes] | None = None) -> None:
        super().write(puts, deletes, expect)
        self.copies.append(dict(self.scan("")))


def stream(world: World, job: Any, seed: int) -> MemoryLog:
    """A log with early, late, repeated, wrong and too late records of requests that overlap."""
    log: MemoryLog = world.log(job)
    rng = random.Random(seed)
    events: list[tuple[float, int, Any]] = []
    for index in range(60):
        at_s, partition, request_id = index * 15.0, index % 2, f"r{index}"
        items = (index % 5, 7, 7) if index % 4 == 0 else (index % 5, 7)
        impression = world.impression(request_id, at_s, items=items)
        events.append((at_s + rng.choice([0, 0, 0, 9, 40, 160]), partition, impression))
        if index % 11 == 0:
            events.append((at_s + 60, partition, impression))
        for kind in rng.sample(["click", "like", "end", "stop", "click"], k=rng.randint(0, 4)):
            after_s = rng.choice([1, 30, 99, 101, 150, 900, 1200])
            action = world.action(request_id, kind, at_s + after_s, item=rng.choice([*items, 99]))
            events.append((at_s + after_s + rng.choice([-60, 0, 0, 30]), partition, action))
    for _, partition, event in sorted(events, key=lambda entry: entry[0]):
        world.append(job, log, event, partition=partition)
    return log


def copy_of(log: MemoryLog) -> MemoryLog:
    copy = MemoryLog()
    copy.records = {topic: [list(records) for records in partitions] for topic, partitions in log.records.items()}
    return copy


def store(entries: Mapping[str, bytes]) -> MemoryKv:
    kv = MemoryKv()
    kv.write(entries)
    return kv


def counts(job: Any, kv: Kv) -> dict[str, list[int]]:
    counters = LiveCounters.of(job)
    return {key: counters.decode(value).tolist() for key, value in kv.scan("counter:")}


def rounds(world: World, job: Any, log: MemoryLog, kv: AgingKv) -> Iterator[tuple[MemoryLog, list[dict[str, bytes]]]]:
    """Join step by step; yield the log and all states of the store so far now and then, and at the end."""
    loop = world.joiner(job, log, kv)
    ends, number = loop.ends(), 0
    while not loop.has_reached(ends):
        loop.step()
        number += 1
        if number % 4 == 0:
            yield copy_of(log), list(kv.copies)
    loop.close_all()
    yield copy_of(log), list(kv.copies)


@pytest.mark.parametrize("case", CASES)
def test_a_store_of_any_age_gives_each_example_once(world: World, case: str) -> None:
    job = world.job(**BASE, **CASES[case])
    for seed in range(3):
        log, kv, rng = stream(world, job, seed), AgingKv(), random.Random(seed)
        moments = list(rounds(world, job, log, kv))
        examples, counted = world.examples(job, log), counts(job, kv)
        assert sum(examples.values()) > 40 and max(examples.values()) == 1
        for at, (log_then, copies) in enumerate(moments):
            for age in sorted({1, 2, len(copies) - 1, *rng.sample(range(len(copies)), k=min(4, len(copies)))}):
                again, old = copy_of(log_then), store(copies[-1 - age] if age < len(copies) else {})
                world.join(job, again, old)
                assert world.examples(job, again) == examples, f"seed {seed} moment {at} of {len(moments)}, {age} writes old"
                assert counts(job, old) == counted or age >= len(copies) - 1, f"seed {seed} moment {at}, {age} writes old"


@pytest.mark.parametrize("case", CASES)
def test_a_recovery_that_dies_goes_on_where_it_was(world: World, case: str) -> None:
    job = world.job(**BASE, **CASES[case])
    log, kv = stream(world, job, 9), AgingKv()
    moments = list(rounds(world, job, log, kv))
    examples, counted = world.examples(job, log), counts(job, kv)
    log_then, copies = moments[len(moments) // 2]
    for moment in range(30):
        fuse, again, old = world.Fuse(moment), copy_of(log_then), store(copies[-8])
        with contextlib.suppress(world.Killed):
            world.joiner(job, again, world.FailingKv(old, fuse))
        world.join(job, again, old)
        assert world.examples(job, again) == examples, f"killed at moment {moment}"
        assert counts(job, old) == counted, f"killed at moment {moment}"
    assert fuse.passed > 5


def test_a_recovery_has_the_facts_of_a_few_requests_in_memory_at_once(world: World) -> None:
    """Those of all examples since the oldest open request were."""
    job = world.job(**BASE)
    log = stream(world, job, 0)
    world.join(job, log)
    series = tail.last_step(log, "examples", 0, 0).step.series
    found = tail.read_tail(log, "examples", 0, Position(Progress([0, 0]), 0, series))
    parts = list(tail.facts_after(log, "examples", 0, found, (["is_click", "is_like"], LabelBits((1, 1)))))
    assert len(parts) > 5 and all(len(part) < 4 + 3 for part in parts)
    expected: dict[tuple[str, int], int] = {}
    for batch in [batch for batch in world.batches(job, log) if int(batch.request_ids[0][1:]) % 2 == 0]:
        for row, key in enumerate(zip(batch.request_ids, batch.item_ids.tolist(), strict=True)):
            bits = int(batch.labels["is_click"][row]) | int(batch.labels["is_like"][row]) << 1
            expected[key] = expected.get(key, 0) | bits
    facts: dict[tuple[str, int], int] = {}
    for request_id, item_id, bits in [(r, i, b) for part in parts for r, items in part.items() for i, b in items.items()]:
        facts[request_id, item_id] = facts.get((request_id, item_id), 0) | bits
    assert facts == expected


def test_an_impression_that_was_too_late_is_so_for_a_state_built_again(world: World) -> None:
    job = world.job(terminal_actions=["end"])
    log = world.log(job)
    world.append(job, log, world.impression("first"), world.impression("other", 300), world.impression("late"))
    world.append(job, log, world.action("first", "end", 1), world.action("late", "click", 2), world.action("other", "like", 50))
    world.joiner(job, log).step()
    assert len(log.records["examples"][0]) == 1
    assert [letter[:2] for letter in world.dead_letters(job, log)] == [("impressions", 2)]
    world.join(job, log)
    assert [row[0] for row in world.labels(job, log)] == ["first", "other"]


@pytest.mark.parametrize("chunk", [1, 5, 2000])
def test_a_clock_days_ahead_takes_no_request_from_a_state_built_again(world: World, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """The impressions behind it would be too late. A read may end behind it, so that no later record shows its fault."""
    monkeypatch.setattr(recovery, "_CHUNK_RECORDS", chunk)
    job = world.job(terminal_actions=["end"])
    log = world.log(job)
    world.append(job, log, world.impression("first"), world.impression("ahead", 2 * 86_400))
    world.append(job, log, *(world.impression(f"r{number}", number) for number in range(10)), world.action("first", "end", 1))
    world.joiner(job, log).step()
    assert len(log.records["examples"][0]) == 1 and len(world.dead_letters(job, log)) == 1
    world.append(job, log, *(world.action(f"r{number}", "click", 20) for number in range(10)))
    world.join(job, log)
    learnt = [row for row in sorted(world.labels(job, log)) if row[0] not in ("first", "ahead")]
    assert learnt == [(f"r{number}", 1, "LABELLED", (1, 0)) for number in range(10)]


def test_a_clock_ahead_of_the_wall_clock_takes_no_request_from_a_state_built_again(world: World) -> None:
    """It is ahead no more when the log is read again."""
    job = world.job(terminal_actions=["end"])
    log, clock = world.log(job), ManualClock(world.now_ms + 20_000)
    world.append(job, log, world.impression("first"), world.impression("ahead", 3600))
    world.append(job, log, *(world.impression(f"r{number}", number) for number in range(10)), world.action("first", "end", 1))
    world.joiner(job, log, clock=clock).step()
    assert len(log.records["examples"][0]) == 1 and len(world.dead_letters(job, log)) == 1
    world.append(job, log, *(world.action(f"r{number}", "click", 20) for number in range(10)))
    world.join(job, log)
    learnt = [row for row in sorted(world.labels(job, log)) if row[0] not in ("first", "ahead")]
    assert learnt == [(f"r{number}", 1, "LABELLED", (1, 0)) for number in range(10)]
