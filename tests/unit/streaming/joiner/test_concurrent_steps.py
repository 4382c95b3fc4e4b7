"""Steps of several partitions are appended at the same time, and all have ended before the commit goes on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from monolith_py.errors import Fenced
from monolith_py.io import MemoryKv, MemoryLog, Writer
from monolith_py.io.log.topics import partition_of

World = Any
HANG_S = 30.0  # against a hang alone
PARTITIONS = 3


class MeetingLog(MemoryLog):
    """A log with the records of `log`, whose first append of each partition waits until all partitions are in theirs."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__()
        self.records, self.epochs = log.records, log.epochs
        self.meeting, self.met = threading.Barrier(PARTITIONS), set[int]()
        self.fails: dict[int, BaseException] = {}  # of the next append, by partition

    def writer(self, topic: str, partition: int, name: str) -> Any:
        return MeetingWriter(super().writer(topic, partition, name), self, partition)


class MeetingWriter:
    def __init__(self, writer: Writer, log: MeetingLog, partition: int) -> None:
        self._writer, self._log, self._partition = writer, log, partition

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def append(self, values: Sequence[bytes], *, time_ms: int) -> int:
        if self._partition not in self._log.met:
            self._log.met.add(self._partition)
            self._log.meeting.wait(HANG_S)
        if (error := self._log.fails.pop(self._partition, None)) is not None:
            raise error
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


def test_a_partition_that_is_taken_over_leaves_the_others_written(world: World, caplog: pytest.LogCaptureFixture) -> None:
    job = world.job(partitions=PARTITIONS, terminal_actions=["end"], examples_per_record=1)
    inner = world.log(job)
    ids = fill(world, job, inner)
    log = MeetingLog(inner)
    log.fails[1] = Fenced("taken")
    loop = world.joiner(job, log)
    read_all(loop)  # takes the partition again, as no other joiner is in the group
    loop.close()
    assert "partition 1 dropped: taken" in caplog.text
    assert log.met == set(range(PARTITIONS))
    assert sorted(row[0] for row in world.labels(job, inner)) == sorted(ids), "each once"


def test_an_error_of_one_partition_is_raised_after_the_others_have_ended(world: World) -> None:
    job = world.job(partitions=PARTITIONS, terminal_actions=["end"], examples_per_record=1)
    inner, kv = world.log(job), MemoryKv()
    ids = fill(world, job, inner)
    log = MeetingLog(inner)
    log.fails[0] = world.Killed()
    loop = world.joiner(job, log, kv)
    with pytest.raises(world.Killed):
        read_all(loop)
    loop.close()
    assert [inner.end_offset("examples", number) for number in range(PARTITIONS)] == [0, 1, 1]
    world.join(job, inner, kv)
    assert sorted(row[0] for row in world.labels(job, inner)) == sorted(ids), "each once after a restart"
