"""Joiners that share partitions come, go, die, and stand still: the examples are those of one joiner, each once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.counters import LiveCounters
from monolith_py.errors import WireError
from monolith_py.io import MemoryKv, MemoryLog
from monolith_streaming.joiner.group import Group, View
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.joiner.position import StateKeys

World = Any
NUM_PARTITIONS = 5
TIMEOUT_S = 6.0
SETTINGS = {
    "partitions": NUM_PARTITIONS,
    "max_records": 5,
    "examples_per_record": 3,
    "idle_timeout_s": 1e6,
    "max_out_of_orderness_s": 200,  # actions are appended up to 150 s before their time
    "terminal_actions": ["end"],
    "negative_rate": 0.6,
    "counters": {"enabled": True, "keys": ["user", "tags"]},
}


class Pauses:
    """Lets the others run for a while, in the middle of a member's writes: at the `at`-th moment from now."""

    def __init__(self, others: Callable[[], None]) -> None:
        self.at: int | None = None
        self._others = others

    def burn(self) -> None:
        if self.at is None:
            return
        self.at -= 1
        if self.at < 0:
            self.at = None
            self._others()


class Crew:
    """Joiners of one job over one log and store, in one thread: those that run take turns."""

    def __init__(self, world: World, seed: int = 0) -> None:
        self.world, self.job, self.rng = world, world.job(**SETTINGS), random.Random(seed)
        self.log, self.kv, self.clock = world.log(self.job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
        self.loops: dict[str, JoinerLoop] = {}
        self.pauses: dict[str, Pauses] = {}
        self.paused: set[str] = set()
        self.num_started = self.num_requests = 0

    def start(self) -> str:
        self.num_started += 1
        name = f"m{self.num_started}"
        pauses = self.pauses[name] = Pauses(lambda: self.pause_within(name))
        log, kv = self.world.FailingLog(self.log, pauses), self.world.FailingKv(self.kv, pauses)
        self.loops[name] = loop = JoinerLoop(self.job, log, kv, self.clock, name=name)
        loop.start()
        return name

    def leave(self, name: str) -> None:
        loop = self.loops.pop(name)
        loop.commit()
        loop.close()

    def kill(self, name: str) -> None:
        del self.loops[name]

    def pause_within(self, name: str) -> None:
        if name in self.loops and name not in self.paused:
            self.paused.add(name)
            self.run(2 * TIMEOUT_S)
            self.paused.discard(name)

    def run(self, duration_s: float) -> None:
        until_s = self.clock.monotonic_s() + duration_s
        while self.clock.monotonic_s() < until_s:
            self.clock.advance(0.5)
            for name in self.rng.sample(sorted(self.loops), len(self.loops)):
                if name not in self.paused and name in self.loops:
                    self.loops[name].step()

    def feed(self, num_requests: int) -> None:
        """Append requests with positives, negatives, retractions and repeats."""
        world = self.world
        for index in range(self.num_requests, self.num_requests + num_requests):
            at_s, request_id, item = index * 5.0, f"r{index}", index % 5
            impression = world.impression(request_id, at_s, items=(item, 7))
            kinds = [("click", 3, item), ("like", 150, 7), ("end", 5, item), ("click", 1, 99)]
            events = [world.action(request_id, kind, at_s + delay_s, item=one) for kind, delay_s, one in kinds[: self.rng.randint(0, 4)]]
            world.append(self.job, self.log, impression, *events, *events[:1], partition=index % NUM_PARTITIONS)
        self.num_requests += num_requests

    def owners(self) -> dict[int, list[str]]:
        """Return the members that own each partition, as they see it."""
        return {
            number: [name for name, loop in sorted(self.loops.items()) if (number, 0) in loop.offsets] for number in range(NUM_PARTITIONS)
        }

    def finish(self) -> tuple[Counter[Any], dict[str, list[list[int]]]]:
        """Join the rest and return the examples and counters."""
        self.paused.clear()
        for pauses in self.pauses.values():
            pauses.at = None
        if not self.loops:
            self.start()
        self.run(3 * TIMEOUT_S)
        while any(loop.step() for loop in self.loops.values()):
            pass
        assert all(len(names) == 1 for names in self.owners().values()), self.owners()
        for loop in self.loops.values():
            loop.close_all()
        return outcome(self.world, self.job, self.log, self.kv)

    def expected(self) -> tuple[Counter[Any], dict[str, list[list[int]]]]:
        """Return the examples and counters of one joiner."""
        log, kv = self.world.log(self.job), MemoryKv()
        for topic in ("impressions", "actions"):
            log.records[topic] = self.log.records[topic]
        self.world.join(self.job, log, kv)
        return outcome(self.world, self.job, log, kv)

    def busy(self) -> list[int]:
        """Return the numbers of partitions owned by those that own one."""
        return sorted(Counter(name for names in self.owners().values() for name in names).values())


def outcome(world: World, job: Any, log: MemoryLog, kv: MemoryKv) -> tuple[Counter[Any], dict[str, list[list[int]]]]:
    counters = LiveCounters.of(job)
    return world.examples(job, log), {key: counters.decode(value).tolist() for key, value in kv.scan("counter:")}


def check(crew: Crew) -> None:
    examples, counted = crew.finish()
    assert (examples, counted) == crew.expected()
    assert max(examples.values()) == 1 and len(examples) > crew.num_requests / 2


def test_members_share_the_partitions_and_hand_them_over(world: World) -> None:
    crew = Crew(world)
    crew.start()
    assert crew.owners() == {number: ["m1"] for number in range(NUM_PARTITIONS)}, "one joiner takes all at once"
    crew.feed(40)
    crew.start()
    crew.start()
    crew.run(5)
    assert crew.busy() == [1, 2, 2]
    crew.feed(40)
    crew.leave("m1")
    crew.run(3)
    assert crew.busy() == [2, 3], "those of a member that leaves are taken at once"
    check(crew)


def test_partitions_of_a_dead_member_are_taken_after_the_time_out(world: World) -> None:
    crew = Crew(world)
    for _ in range(3):
        crew.start()
    crew.feed(60)
    crew.run(5)
    crew.kill("m1")
    crew.feed(20)
    crew.run(TIMEOUT_S / 2)
    assert [] in crew.owners().values()
    crew.run(TIMEOUT_S)
    assert [] not in crew.owners().values()
    check(crew)


def test_a_member_that_stood_still_finds_itself_fenced_and_joins_again(world: World) -> None:
    crew = Crew(world)
    for _ in range(2):
        crew.start()
    crew.run(5)
    crew.paused = {"m1"}
    crew.feed(60)
    crew.run(2 * TIMEOUT_S)
    assert all("m2" in names for names in crew.owners().values())
    assert any("m1" in names for names in crew.owners().values()), "it does not know yet"
    crew.paused = set()
    crew.feed(60)
    crew.run(5)
    assert crew.busy() == [2, 3]
    check(crew)


@pytest.mark.parametrize("moment", range(12))
def test_a_member_that_stands_still_within_a_commit_writes_nothing_twice(world: World, moment: int) -> None:
    crew = Crew(world)
    for _ in range(2):
        crew.start()
    crew.run(5)
    crew.feed(50)
    crew.pauses["m1"].at = moment
    crew.run(5)
    assert crew.pauses["m1"].at is None
    crew.feed(50)
    crew.run(5)
    check(crew)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_becomes_of_the_members_the_examples_are_those_of_one_joiner(world: World, seed: int) -> None:
    crew = Crew(world, seed)
    crew.start()
    for _ in range(12):
        crew.feed(crew.rng.randint(0, 15))
        names = sorted(crew.loops)
        match crew.rng.choice(["start", "leave", "kill", "pause", "resume", "within", "within"]):
            case "start" if len(names) < 4:
                crew.start()
            case "leave" if names and names[0] not in crew.paused:
                crew.leave(names[0])
            case "kill" if names:
                crew.kill(crew.rng.choice(names))
            case "pause" if names:
                crew.paused.add(crew.rng.choice(names))
            case "resume":
                crew.paused.clear()
            case "within" if names:
                crew.pauses[crew.rng.choice(names)].at = crew.rng.randint(0, 30)
        crew.run(crew.rng.choice([1.0, 4.0, 10.0]))
    check(crew)


def test_an_observer_that_was_paused_finds_nobody_dead(world: World) -> None:
    clock, kv = ManualClock(), MemoryKv()
    one, other = (Group(kv, StateKeys("job", "examples"), name, TIMEOUT_S, clock) for name in ("one", "other"))
    one.look(1)
    other.look(1)
    assert one.look(1).silent == {"other"}
    other.look(1)
    clock.advance(100.0)
    assert live(one.look(1)) == ["one", "other"]
    for _ in range(8):
        clock.advance(1.0)
        view = one.look(1)
    assert live(view) == ["one"], "and one that is silent while it looks dead"
    assert live(other.look(1)) == ["one", "other"], "which joins again"


def live(view: View) -> list[str]:
    return list(view.live)


def test_a_member_that_wants_all_partitions_gets_them(world: World) -> None:
    clock, kv = ManualClock(), MemoryKv()
    one, other = (Group(kv, StateKeys("job", "examples"), name, TIMEOUT_S, clock) for name in ("one", "other"))
    one.is_exclusive = True
    other.look(3)
    assert one.look(3).share() == [0, 1, 2]
    assert other.look(3).share() == []
    one.is_exclusive = False
    one.look(3)
    assert len(other.look(3).share()) + len(one.look(3).share()) == 3
    one.leave()
    assert other.look(3).share() == [0, 1, 2]


def test_a_list_of_members_of_another_version_is_refused(world: World) -> None:
    keys = StateKeys("job", "examples")
    for value, fault in ((b'{"version": 9, "members": [], "counts": []}', "must be 1, got 9"), (b"x", "must be a JSON object")):
        kv = MemoryKv()
        kv.write({keys.members: value})
        with pytest.raises(WireError, match=fault):
            Group(kv, keys, "one", TIMEOUT_S, ManualClock()).look(1)
