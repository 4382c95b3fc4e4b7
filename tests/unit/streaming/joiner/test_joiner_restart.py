"""The joiner's start beside another one and with a large state, and a partition that is added while it runs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.errors import AlreadyRunning
from monolith_py.io import MemoryKv, open_log
from monolith_streaming.joiner import loop as module
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.joiner.process import _lock, run_joiner

World = Any
NUM_WAITING = 1000


class Token:
    """Lives as long as the value that holds it."""


class TrackedBytes(bytes):
    token: Token


class TrackingKv(MemoryKv):
    """A store that counts its values that are in use together, and those read."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: weakref.WeakSet[Token] = weakref.WeakSet()
        self.most_alive = self.num_read = 0

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for value in super().get_many(keys):
            tracked = None if value is None else TrackedBytes(value)
            if tracked is not None:
                tracked.token = Token()
                self._alive.add(tracked.token)
                self.num_read += 1
            found.append(tracked)
        self.most_alive = max(self.most_alive, len(self._alive))
        return found


def test_a_joiner_with_a_large_state_starts_without_having_all_of_it_in_memory(world: World) -> None:
    """The state of all waiting requests was in memory at once: faults.md, f26."""
    job = world.job(window_s=100_000, max_records=20)
    log, kv, clock = world.log(job), TrackingKv(), ManualClock(world.now_ms + 1_000)
    world.append(job, log, *(world.impression(f"r{number}", items=range(1, 20)) for number in range(NUM_WAITING)))
    first = world.joiner(job, log, kv, clock)
    ends = first.ends()
    while not first.has_reached(ends):
        first.step()
    first.commit()
    kv.most_alive = kv.num_read = 0
    second = world.joiner(job, log, kv, clock)
    assert sum(partition.joiner.core.num_requests for partition in second._partitions) == NUM_WAITING
    assert kv.num_read >= NUM_WAITING // 20 and 0 < kv.most_alive < 10


def test_a_partition_that_is_added_is_named_until_a_restart(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It was never read, without a word: faults.md, f23. Its requests may be those of another partition's state, so it is not just read."""
    job = world.job()
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop: JoinerLoop = world.joiner(job, log, MemoryKv(), clock)
    log.records["actions"].append([])
    caplog.set_level(logging.ERROR)
    loop.step()
    assert caplog.messages == []
    for _ in range(2):
        clock.advance(module._PARTITIONS_INTERVAL_S)
        loop.step()
    assert caplog.messages == ["topic 'actions' has 2 partitions, this joiner reads 1 until it restarts"] * 2


def test_a_second_joiner_of_a_sqlite_store_is_refused(world: World, tmp_path: Path) -> None:
    """Two joiners wrote a sixth of the examples twice, and one died: newcomer.md, P8."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}", f"sqlite:///{tmp_path / 'kv.db'}")
    with closing(open_log(job.log.url)) as log:
        world.create_topics(log, job)
    with _lock(job), pytest.raises(AlreadyRunning, match="one joiner at a time must run"):
        run_joiner(job, stop_at_end=True)
    run_joiner(job, stop_at_end=True)
