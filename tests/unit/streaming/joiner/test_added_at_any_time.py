"""Partitions added at any time to joiners that come, go, die and stand still: the examples are those of one joiner of one partition."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.counters import LiveCounters
from monolith_py.io import MemoryKv, MemoryLog
from monolith_py.io.log.topics import partition_of
from monolith_streaming.joiner.loop import JoinerLoop

World = Any
TIMEOUT_S = 6.0
# No window closes before the end, and no action is refused.
SETTINGS = {
    "max_records": 7,
    "examples_per_record": 4,
    "idle_timeout_s": 1e6,
    "window_s": 1000,
    "max_out_of_orderness_s": 900,
    "negative_rate": 0.6,
    "negative_rates": [{"feature": "tags", "value": 20, "rate": 0.2}, {"feature": "tags", "value": 70, "rate": 0.9}],
    "counters": {"enabled": True, "keys": ["user", "tags"]},
}


class Growing:
    """Joiners over topics with two partitions at first; clients know of any number of partitions so far."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.rng = world, random.Random(seed)
        self.job = world.job(partitions=2, **SETTINGS, max_memory_bytes=self.rng.choice([0, 3000, 1 << 40]))
        self.log, self.kv, self.clock = world.log(self.job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
        self.loops: dict[str, JoinerLoop] = {}
        self.paused: set[str] = set()
        self.counts, self.num_started, self.num_requests = [2], 0, 0

    def start(self) -> None:
        self.num_started += 1
        name = f"m{self.num_started}"
        self.loops[name] = JoinerLoop(self.job, self.log, self.kv, self.clock, name=name)
        self.loops[name].start()

    def grow(self) -> None:
        """Add partitions once the list of joiners has those before."""
        (members,) = self.kv.get_many(["joiner:test:examples:members"])
        if len(self.counts) == 4 or json.loads(members or b"")["counts"][-1][1] < self.counts[-1]:
            return
        self.counts.append(self.counts[-1] + self.rng.randint(1, 3))
        for topic in ("impressions", "actions", "examples"):
            self.log.records[topic] += [[] for _ in range(self.counts[-1] - self.counts[-2])]

    def run(self, duration_s: float) -> None:
        for _ in range(round(2 * duration_s)):
            self.clock.advance(0.5)
            for name in self.rng.sample(sorted(self.loops), len(self.loops)):
                if name not in self.paused:
                    self.loops[name].step()

    def feed(self, num_requests: int) -> None:
        events: list[tuple[float, Any]] = []
        for index in range(self.num_requests, self.num_requests + num_requests):
            at_s, name, items = index * 0.5, f"r{index}", (index % 5, 7)
            events.append((at_s + self.rng.uniform(0, 20), self.world.impression(name, at_s, items=items)))
            for kind, item in (("click", items[0]), ("like", 7), ("like", items[0])):
                action = self.world.action(name, kind, at_s + 1, item=item)
                events += [(at_s + self.rng.uniform(0, 20), action) for _ in range(self.rng.choice([0, 1, 1, 2]))]
        self.num_requests += num_requests
        for _, event in sorted(events, key=lambda one: one[0]):
            self.world.append(self.job, self.log, event, partition=partition_of(event.request_id, self.rng.choice(self.counts)))

    def happen(self) -> None:
        """Let something become of the joiners or of the topics."""
        names = sorted(self.loops)
        match self.rng.choice(["start", "leave", "kill", "pause", "resume", "grow", "grow"]):
            case "start" if len(names) < 4:
                self.start()
            case "leave" if names and names[0] not in self.paused:
                self.loops[names[0]].commit()
                self.loops.pop(names[0]).close()
            case "kill" if names:
                del self.loops[self.rng.choice(names)]
            case "pause" if names:
                self.paused.add(self.rng.choice(names))
            case "resume":
                self.paused.clear()
            case "grow":
                self.grow()

    def finish(self) -> Any:
        """Join the rest and return the examples and counters."""
        self.paused.clear()
        if not self.loops:
            self.start()
        self.run(6 * TIMEOUT_S)
        while any(loop.step() for loop in self.loops.values()):
            pass
        for loop in self.loops.values():
            loop.close_all()
        return outcome(self.world, self.job, self.log, self.kv)

    def expected(self) -> Any:
        """Return the examples and counters of one joiner with one partition."""
        job, kv = self.world.job(**SETTINGS), MemoryKv()
        log = self.world.log(job)
        for topic in ("impressions", "actions"):
            records = [record for partition in self.log.records[topic] for record in partition]
            log.records[topic] = [[record._replace(partition=0, offset=offset) for offset, record in enumerate(records)]]
        self.world.join(job, log, kv)
        return outcome(self.world, job, log, kv)


def outcome(world: World, job: Any, log: MemoryLog, kv: MemoryKv) -> Any:
    counters = LiveCounters.of(job)
    return world.examples(job, log), {key: counters.decode(value).tolist() for key, value in kv.scan("counter:")}


@pytest.mark.parametrize("seed", range(12))
def test_the_examples_are_those_of_one_joiner_of_one_partition(world: World, seed: int) -> None:
    """Also where the features of requests are read from the log again, and with rates by value."""
    growing = Growing(world, seed)
    growing.start()
    for _ in range(14):
        growing.feed(growing.rng.randint(0, 12))
        growing.happen()
        growing.run(growing.rng.choice([1.0, 4.0, 10.0]))
    examples, counted = growing.finish()
    assert (examples, counted) == growing.expected()
    assert len(growing.counts) > 1 and max(examples.values()) == 1
