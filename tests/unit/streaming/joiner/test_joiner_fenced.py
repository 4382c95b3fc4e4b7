"""A joiner that another one has taken over from, or whose store has lost writes, ends before it writes anything wrong."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.errors import Fenced, KvError
from monolith_py.io import Log, MemoryKv
from monolith_streaming.joiner.loop import JoinerLoop

World = Any


def fill(world: World, job: JobConfig, log: Log, first: int = 0) -> None:
    for number in range(first, first + 30):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "end", number))


def step_to_end(loop: JoinerLoop) -> None:
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()


@pytest.fixture
def job(world: World) -> JobConfig:
    found: JobConfig = world.job(terminal_actions=["end"])
    return found


def keys(world: World, job: JobConfig, log: Log) -> list[tuple[str, int, str]]:
    return sorted((request_id, item, kind) for request_id, item, kind, _ in world.labels(job, log))


def copy_of(kv: MemoryKv) -> MemoryKv:
    copy = MemoryKv()
    copy.write(dict(kv.scan("")))
    return copy


def test_a_joiner_that_was_taken_over_writes_nothing_more(world: World, job: JobConfig) -> None:
    """Two joiners of one job wrote 1,124 of 3,000 examples twice: streams.md, A1 and K9."""
    log, kv = world.log(job), MemoryKv()
    first = world.joiner(job, log, kv)
    fill(world, job, log)
    step_to_end(first)
    fill(world, job, log, first=30)
    second = JoinerLoop(job, log, kv, ManualClock(world.now_ms + 10 * 86_400_000), name="second")
    second.start()  # the first one has ended, as far as it knows
    while first.step():
        pass
    assert first.offsets == {} and len(keys(world, job, log)) == 30
    step_to_end(second)
    assert len(keys(world, job, log)) == 60


def test_a_joiner_with_another_store_ends_the_one_before_it(world: World, job: JobConfig) -> None:
    """Both would take the partition from each other for ever."""
    log = world.log(job)
    first, second = world.joiner(job, log, MemoryKv()), world.joiner(job, log, MemoryKv())
    with pytest.raises(Fenced, match="another process has taken over"):  # noqa: PT012
        for number in range(10):
            fill(world, job, log, first=30 * number)
            for loop in (first, second):
                loop.step()
    step_to_end(world.joiner(job, log, MemoryKv()))
    found = keys(world, job, log)
    assert len(found) == len(set(found)) > 0


def test_a_store_that_goes_back_while_the_joiner_runs_is_noticed_and_makes_no_difference(
    world: World, job: JobConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis without appendonly, killed and started again, gives the state of its last snapshot."""
    log, kv = world.log(job), MemoryKv()
    loop = world.joiner(job, log, kv)
    world.append(job, log, world.impression("r"))
    step_to_end(loop)
    backup = copy_of(kv)
    world.append(job, log, world.action("r", "end", 1))
    step_to_end(loop)
    assert len(world.labels(job, log)) == 1
    old = dict(backup.scan(""))
    kv.write(old, [key for key, _ in kv.scan("") if key not in old])
    world.append(job, log, world.action("r", "click", 2))  # on a request that waits again, says the store
    step_to_end(loop)
    loop.close_all()
    assert "or the store has lost it" in caplog.text
    assert world.labels(job, log) == [("r", 1, "LABELLED", (0, 0)), ("r", 1, "RETRACTION", (1, 0))]
    kv.close()
    world.append(job, log, world.impression("s", 3), world.action("s", "end", 4))
    step_to_end(loop)
    assert keys(world, job, log) == [("r", 1, "LABELLED"), ("r", 1, "RETRACTION"), ("s", 1, "LABELLED")]


def test_a_commit_whose_answer_was_lost_is_no_other_joiner(world: World, job: JobConfig) -> None:
    class ForgetfulKv(MemoryKv):
        fails = False

        def write(self, puts: Any, deletes: Any = (), expect: Any = None) -> None:
            super().write(puts, deletes, expect)
            if self.fails:
                self.fails = False
                raise KvError("away")

    log, kv = world.log(job), ForgetfulKv()
    loop = world.joiner(job, log, kv)
    fill(world, job, log)
    kv.fails = True
    step_to_end(loop)
    fill(world, job, log, first=30)
    step_to_end(loop)
    assert len(keys(world, job, log)) == 60
