"""Kinds of the joiner's dead letters: late is told from broken, a wrong partition from a missing impression."""

from __future__ import annotations

from typing import Any

from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_dead_letter

World = Any


def kinds(log: Any) -> list[str]:
    return sorted(str(decode_dead_letter(record.value).kind) for record in log.read("dead_letters", 0, 0, 100))


def test_each_refusal_has_its_kind(world: World) -> None:
    job = world.job(partitions=2)
    log, kv = world.log(job), MemoryKv()
    for partition in range(2):  # "a" belongs to one of them
        world.append(job, log, world.action("a", "click", 1), partition=partition)
    world.append(job, log, world.impression("b", 0), world.action("b", "click", 1, item=9))
    log.append("actions", [b"\xff"], time_ms=world.now_ms)
    world.pass_time(job, log, 200)
    world.join(job, log, kv)
    assert kinds(log) == ["broken", "unmatched", "unmatched", "wrong_partition"]


def test_an_impression_after_its_time_is_late(world: World) -> None:
    job = world.job()
    log = world.log(job)
    loop = world.joiner(job, log)
    for at_s in (0, 5_000, 1):  # window, lateness and order are 1,110 s
        world.append(job, log, world.impression(f"r{at_s}", at_s), world.action("r0", "other", at_s))
        while loop.step():
            pass
    loop.commit()
    assert kinds(log) == ["late"]
