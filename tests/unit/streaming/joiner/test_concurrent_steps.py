"""Steps of several partitions are appended at the same time, and all have ended before the commit goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from monolith_py.errors import Fenced
from monolith_py.io import MemoryKv, MemoryLog, Writer
from monolith_py.io.log.topics import partition_of

World = Any
HANG_S = 30.0  # against a hang alone
PARTITIONS = 3


class MeetingLog(MemoryLog):
    """A log with the records of `log`, whose appends through writers wait until all partitions are in one."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__()
        self.records, self.epochs = log.records, log.epochs
        self.meeting = threading.Barrier(PARTITIONS)
        self.fails: dict[int, Callable[[], Exception]] = {}

    def writer(self, topic: str, partition: int, name: str) -> Any:
        return MeetingWriter(super().writer(topic, partition, name), self, partition)


class MeetingWriter:
    def __init__(self, writer: Writer, log: MeetingLog, partition: int) -> None:
        self._writer, self._log, self._partition = writer, log, partition

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def append(self, values: Sequence[bytes], *, time_ms: int) -> int:
        self._log.meeting.wait(HANG_S)
        if self._partition in self._log.fails:
            raise self._log.fails[self._partition]()
        return self._writer.append(values, time_ms=time_ms)


def fill(world: World, job: Any, log: MemoryLog) -> set[str]:
    """Append one closed request for each partition and return the request ids."""
    ids = [next(f"r{n}" for n in range(1000) if partition_of(f"r{n}", PARTITIONS) == number) for number in range(PARTITIONS)]
    for number, request_id in enumerate(ids):
        events = world.impression(request_id), world.action(request_id, "end", 1)
        world.append(job, log, *events, partition=number)
    return set(ids)


def read_all(loop: Any) -> None:
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    loop.commit()


def test_each_partition_waits_for_its_own_transaction_alone(world: World) -> None:
    """One after the other they took 20 ms each on Kafka; here the first would wait for the others for ever."""
    job = world.job(partitions=PARTITIONS, terminal_actions=["end"], examples_per_record=1)
    inner = world.log(job)
    ids = fill(world, job, inner)
    loop = world.joiner(job, MeetingLog(inner))
    read_all(loop)
    loop.close()
    assert {row[0] for row in world.labels(job, inner)} == ids
    assert [inner.end_offset("examples", number) for number in range(PARTITIONS)] == [1, 1, 1]


def test_a_partition_that_is_taken_over_leaves_the_others_written(world: World) -> None:
    job = world.job(partitions=PARTITIONS, terminal_actions=["end"], examples_per_record=1)
    inner, kv = world.log(job), MemoryKv()
    ids = fill(world, job, inner)
    log = MeetingLog(inner)
    log.fails[1] = lambda: Fenced("taken")
    loop = world.joiner(job, log, kv)
    with pytest.raises(Fenced, match="taken"):
        read_all(loop)
    loop.close()
    assert [inner.end_offset("examples", number) for number in range(PARTITIONS)] == [1, 0, 1]
    world.join(job, inner, kv)
    assert sorted(row[0] for row in world.labels(job, inner)) == sorted(ids), "each once after a restart"
