"""Joiners that lose or give up a partition on the way keep nothing of it, and do not go on as if they had it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.errors import Fenced
from monolith_py.io import MemoryKv
from monolith_streaming.joiner.loop import JoinerLoop

World = Any


def test_a_partition_that_was_given_up_takes_no_memory(world: World) -> None:
    """Its reader, and once partitions were added its forwarding, kept the requests that wait."""
    job = world.job(partitions=2, idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    one = JoinerLoop(job, log, kv, clock, name="one")
    one.start()
    for topic in ("impressions", "actions", "examples"):
        log.records[topic] += [[], []]
    for _ in range(20):
        clock.advance(0.5)
        one.step()
    states = {partition.number: weakref.ref(partition.joiner) for partition in one._partitions}
    assert sorted(states) == [0, 1, 2, 3]
    other = JoinerLoop(job, log, kv, clock, name="other")
    other.start()
    for _ in range(20):
        clock.advance(0.5)
        one.step()
        other.step()
    gc.collect()
    owned = {number for number, _ in one.offsets}
    assert len(owned) == 2 and {number for number, state in states.items() if state() is not None} == owned


def test_a_joiner_that_stood_still_drops_what_was_taken_from_it_also_without_a_record_to_commit(world: World) -> None:
    """It believed that it owned partitions which the store called free, until its next commit."""
    job = world.job(partitions=4, idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    one, other = (JoinerLoop(job, log, kv, clock, name=name) for name in ("one", "other"))

    def run(*loops: JoinerLoop) -> None:
        for _ in range(30):
            clock.advance(0.5)
            for loop in loops:
                loop.step()

    for loop in (other, one):  # one gets the last partitions, then and later
        loop.start()
    run(one, other)
    run(other)
    assert len({number for number, _ in other.offsets}) == 4
    run(one, other)
    owners = {int(key[-1]): value for key, value in kv.scan("joiner:test:examples:owner:")}
    for name, loop in ((b"one", one), (b"other", other)):
        owned = {number for number, _ in loop.offsets}
        assert len(owned) == 2 and owned == {number for number, owner in owners.items() if owner == name}


def test_a_joiner_that_stood_still_while_it_took_a_partition_deletes_nothing_of_the_next_owner(world: World) -> None:
    """It dropped the waiting requests of a store without a position: the next owner's, whose next start failed."""
    job = world.job(terminal_actions=["end"], idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    world.append(job, log, *(world.impression(f"r{number}") for number in range(10)), world.action("r0", "end", 1))
    first = world.joiner(job, log, kv, clock)
    while first.step():
        pass
    kv.write({}, [key for key, _ in kv.scan("joiner:")])

    class PausedKv(MemoryKv):
        """Lets another joiner take the partition before a scan."""

        def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
            kv.write({}, [key for key, _ in kv.scan("joiner:test:examples:member")])
            JoinerLoop(job, log, kv, clock, name="other").start()
            return kv.scan(prefix)

    paused = PausedKv()
    paused.get_many, paused.write = kv.get_many, kv.write  # type: ignore[method-assign]
    one = JoinerLoop(job, log, paused, clock, name="one")
    one.start()
    assert one.offsets == {}
    kv.write({}, [key for key, _ in kv.scan("joiner:test:examples:member")])
    assert world.joiner(job, log, kv, clock).num_requests == 10


def test_a_joiner_that_is_overtaken_while_it_reads_the_state_lives_on(world: World) -> None:
    """The next owner deletes blocks that it has no more need of: they looked damaged, and the process ended."""
    job = world.job(idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    world.append(job, log, world.impression("r"))
    first = world.joiner(job, log, kv, clock)
    while first.step():
        pass

    class PausedKv(MemoryKv):
        """Lets another joiner take the partition, and delete its blocks, before a block is read."""

        def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
            if any(":block:" in key for key in keys):
                kv.write({"joiner:test:examples:owner:0": b"other"}, keys)
            return kv.get_many(keys)

    paused = PausedKv()
    paused.write, paused.scan = kv.write, kv.scan  # type: ignore[method-assign]
    one = JoinerLoop(job, log, paused, clock, name="one")
    one.start()
    assert one.offsets == {}


@pytest.mark.parametrize("num_requests", [10, 20_000])
def test_a_joiner_that_loses_a_partition_while_it_closes_the_windows_ends(world: World, num_requests: int) -> None:
    """It closed windows of a partition that it had no more, for ever if these were more than a step may close."""
    job = world.job(idle_timeout_s=1e6)
    log, kv, clock = world.log(job), MemoryKv(), ManualClock(world.now_ms + 10 * 86_400_000)
    one = JoinerLoop(job, log, kv, clock, name="one")
    one.start(must_be_alone=True)
    world.append(job, log, *(world.impression(f"r{number}") for number in range(num_requests)))
    ends = one.ends()
    while not one.has_reached(ends):
        one.step()
    one.commit()
    kv.write({}, [key for key, _ in kv.scan("joiner:test:examples:member")])  # as if it had stood still
    JoinerLoop(job, log, kv, clock, name="other").start()
    with pytest.raises(Fenced, match=r"partitions \[0\] must stay with this joiner"):
        one.close_all()
    assert world.labels(job, log) == []
