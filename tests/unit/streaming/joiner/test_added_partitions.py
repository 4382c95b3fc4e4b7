"""Partitions added while joiners run: requests in flight are joined, although their actions go elsewhere than their impressions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from monolith_py.clock import ManualClock
from monolith_py.io import MemoryKv, MemoryLog
from monolith_py.io.codec import decode_action, decode_dead_letter
from monolith_py.io.log.topics import partition_of
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.joiner.process import _join_to_end

World = Any


def add_partitions(log: MemoryLog, number: int) -> None:
    for topic in ("impressions", "actions", "examples"):
        log.records[topic].extend([] for _ in range(number - len(log.records[topic])))


def test_an_action_whose_request_is_in_a_partition_of_an_earlier_number_reaches_it(world: World) -> None:
    """Impressions of before the change with actions of after it, and actions of an app that does not know of it yet."""
    job = world.job(partitions=2, terminal_actions=["end"], idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    loops = [JoinerLoop(job, log, kv, clock, name=name) for name in ("m1", "m2")]
    for loop in loops:
        loop.start()

    def run(duration_s: int) -> None:
        for _ in range(2 * duration_s):
            clock.advance(0.5)
            for loop in loops:
                loop.step()

    run(3)
    names = [f"r{number}" for number in range(40)]
    append(world, job, log, 2, *(world.impression(name, 0) for name in names[:20]))
    run(2)
    add_partitions(log, 6)
    append(world, job, log, 6, *(world.impression(name, 1) for name in names[20:]))
    append(world, job, log, 6, *(world.action(name, "end", 2) for name in names[:10]))
    append(world, job, log, 2, *(world.action(name, "end", 2) for name in names[20:30]))  # before the joiners know
    run(20)
    assert [len({number for number, _ in loop.offsets}) for loop in loops] == [3, 3]
    append(world, job, log, 6, *(world.action(name, "end", 2) for name in names[10:20]))
    append(world, job, log, 2, *(world.action(name, "end", 2) for name in names[30:]))
    append(world, job, log, 6, *(world.action(f"none{number}", "end", 2) for number in range(20)))
    run(20)
    assert Counter(request_id for request_id, *_ in world.labels(job, log)) == dict.fromkeys(names, 1)
    num_actions = sum(len(log.records["actions"][number]) for number in range(6))
    for number in range(6):
        world.append(job, log, world.impression(f"late{number}", 3_000), world.action(f"late{number}", "x", 3_000), partition=number)
    run(20)  # the time to wait is over
    assert sum(len(log.records["actions"][number]) for number in range(6)) == num_actions + 6 < 2 * 60 + 6, "no copy goes round"
    kinds = Counter(str(decode_dead_letter(record.value).kind) for record in log.read("dead_letters", 0, 0, 1000))
    assert set(kinds) == {"unmatched"}
    refused = {decode_action(decode_dead_letter(record.value).value).request_id for record in log.read("dead_letters", 0, 0, 1000)}
    assert {f"none{number}" for number in range(20)} <= refused


def append(world: World, job: Any, log: MemoryLog, num_partitions: int, *events: Any) -> None:
    """Append events where a client puts them that knows of so many partitions."""
    for event in events:
        world.append(job, log, event, partition=partition_of(event.request_id, num_partitions))


def test_a_joiner_that_reads_to_the_end_reads_what_it_forwards(world: World) -> None:
    job = world.job(partitions=2, terminal_actions=["end"], idle_timeout_s=1e6)
    log, kv = world.log(job), MemoryKv()
    names = [f"r{number}" for number in range(20)]
    append(world, job, log, 2, *(world.impression(name, 0) for name in names))
    world.joiner(job, log, kv)  # the group's list has two partitions
    add_partitions(log, 6)
    append(world, job, log, 6, *(world.action(name, "click", 2) for name in names))
    loop = world.joiner(job, log, kv)
    _join_to_end(loop, lambda: False)
    assert sorted(world.labels(job, log)) == sorted((name, 1, "LABELLED", (1, 0)) for name in names)


def test_actions_that_wait_are_forwarded_although_another_joiner_was_sooner_to_notice_the_added_partitions(world: World) -> None:
    """The list of the group had the new number before this joiner read it from the log: 12 of 40 requests lost their action."""
    job = world.job(partitions=2, terminal_actions=["end"], idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    loops: list[JoinerLoop] = []

    def run(duration_s: float) -> None:
        for _ in range(round(2 * duration_s)):
            clock.advance(0.5)
            for loop in loops:
                loop.step()

    for name in ("m1", "m2"):
        loops.append(JoinerLoop(job, log, kv, clock, name=name))
        loops[-1].start()
        run(2.5)  # they look at the log at different times
    names = [f"r{number}" for number in range(40)]
    append(world, job, log, 2, *(world.action(name, "end", 2) for name in names))
    run(1)
    add_partitions(log, 6)
    append(world, job, log, 6, *(world.impression(name, 1) for name in names))
    run(30)
    assert Counter(request_id for request_id, *_ in world.labels(job, log)) == dict.fromkeys(names, 1)


def test_an_action_too_late_for_any_request_has_a_dead_letter_wherever_it_arrives(world: World) -> None:
    """In an earlier partition of its request it counted as forwarded and was not: it left no trace."""
    job = world.job(partitions=2, terminal_actions=["end"], idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    world.joiner(job, log, kv, clock)  # the group's list has two partitions
    add_partitions(log, 6)
    loop = world.joiner(job, log, kv, clock)

    def go_on_to(at_s: int) -> None:
        for number in range(6):
            request_id = f"at{at_s}-{number}"
            world.append(job, log, world.impression(request_id, at_s), world.action(request_id, "end", at_s), partition=number)
        for _ in range(20):
            clock.advance(0.5)
            loop.step()

    go_on_to(3_000)
    names = [f"none{number}" for number in range(20)]
    for num_partitions, first in ((2, 0), (6, 10)):
        append(world, job, log, num_partitions, *(world.action(name, "end", 2) for name in names[first : first + 10]))
    go_on_to(3_500)
    go_on_to(4_000)
    refused = Counter(decode_action(decode_dead_letter(record.value).value).request_id for record in log.read("dead_letters", 0, 0, 1000))
    assert {name: refused[name] for name in names} == dict.fromkeys(names, 1)
    assert sum(len(log.records["actions"][number]) for number in range(6)) <= 3 * 12 + 20 + 10, "no copy goes round"
