"""Impressions that a joiner reads again from the log: after a restart, after a window, and beyond its bound of memory."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.errors import RecordsDamaged
from monolith_py.io import MemoryKv, MemoryLog, Record
from monolith_streaming.joiner.lookup import records_at

World = Any
LOST = "impression must be in the log until its request is forgotten, got none: its examples are lost"


class CountingLog(MemoryLog):
    """A log that counts its reads of impressions, with a damaged batch of offsets."""

    def __init__(self, damaged: range = range(0)) -> None:
        super().__init__()
        self.num_reads, self._damaged = 0, damaged

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        self.num_reads += 1
        if offset in self._damaged:
            raise RecordsDamaged(topic, partition, offset, self._damaged.stop, "checksum")
        return [record for record in super().read(topic, partition, offset, min(max_records, 100)) if record.offset not in self._damaged]


def test_records_are_found_by_offset_in_any_order_of_gaps_trims_and_damage() -> None:
    rng = random.Random(0)
    for _ in range(100):
        damaged = range(start := rng.randrange(1000), start + rng.choice([0, 1, 30]))
        log = CountingLog(damaged)
        log.create_topic("impressions")
        log.append("impressions", [b"%d" % number for number in range(1000)], time_ms=1)
        trimmed = rng.choice([0, 0, 500])
        log.trim("impressions", 0, trimmed)
        wanted = sorted(rng.sample(range(1000), rng.choice([0, 1, 5, 300])))
        found = [(record.offset, record.value) for record in records_at(log, "impressions", 0, wanted)]
        assert found == [(offset, b"%d" % offset) for offset in wanted if offset >= trimmed and offset not in damaged]


def test_neighbours_are_found_in_one_read() -> None:
    log = CountingLog()
    log.create_topic("impressions")
    log.append("impressions", [b""] * 1000, time_ms=1)
    assert len(list(records_at(log, "impressions", 0, [0, 40, 90, 900, 901]))) == 5
    assert log.num_reads == 2


def restarted(world: World, job: Any, log: MemoryLog, kv: MemoryKv) -> Any:
    """Process what the log has, and return another joiner that goes on from there."""
    first = world.joiner(job, log, kv)
    ends = first.ends()
    while not first.has_reached(ends):
        first.step()
    first.commit()
    return world.joiner(job, log, kv)


def close(loop: Any) -> None:
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    loop.close_all()


@pytest.mark.parametrize("max_memory_bytes", [0, 1 << 40])
def test_examples_are_those_without_a_restart_and_without_a_bound(world: World, max_memory_bytes: int) -> None:
    job = world.job(max_memory_bytes=max_memory_bytes, counters={"enabled": True, "keys": ["user"]}, negative_rate=0.5)
    log, kv = world.log(job), MemoryKv()
    for number in range(300):
        world.append(job, log, world.impression(f"r{number}", number * 3, items=(1, 2)))
        if number >= 50:
            world.append(job, log, world.action(f"r{number - 50}", "click", number * 3))  # after the window
    calm = world.job(counters={"enabled": True, "keys": ["user"]}, negative_rate=0.5)
    other, other_kv = MemoryLog(), MemoryKv()
    other.records = {topic: [list(records) for records in partitions] for topic, partitions in log.records.items()}
    world.join(calm, other, other_kv)
    close(restarted(world, job, log, kv))
    assert world.examples(job, log) == world.examples(calm, other)
    assert world.dead_letters(job, log) == []
    assert dict(kv.scan("counter:")) == dict(other_kv.scan("counter:"))


def test_closed_requests_leave_their_features_above_half_of_the_bound_and_new_ones_above_it(world: World) -> None:
    wide = FeatureColumns(1, {"user": SparseColumn(np.arange(200), np.array([200], np.int32))})
    open_bytes, closed_bytes = {}, {}
    for bound in (1 << 40, 1_000_000, 0):
        job = world.job(max_memory_bytes=bound, allowed_lateness_s=10**9)
        log = world.log(job)
        world.append(job, log, *(world.impression(f"r{number}", shared=wide) for number in range(1000)))
        loop = world.joiner(job, log, MemoryKv())
        loop.step()
        loop.commit()
        open_bytes[bound] = loop.num_bytes
        world.append(job, log, world.impression("last", 500), world.action("last", "click", 500))
        loop.step()
        assert len(world.labels(job, log)) == 1000
        closed_bytes[bound] = loop.num_bytes
    assert min(open_bytes[1 << 40], closed_bytes[1 << 40]) > 1_600_000 and max(open_bytes[0], closed_bytes[0]) < 400_000
    assert 990_000 < open_bytes[1_000_000] < 1_000_000 and 490_000 < closed_bytes[1_000_000] < 500_000


def test_an_impression_that_the_log_has_lost_is_a_dead_letter_and_the_others_are_joined(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    job = world.job()
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, *(world.impression(f"r{number}", number, items=(1, 2)) for number in range(10)))
    second = restarted(world, job, log, kv)
    log.trim("impressions", 0, 4)
    before = REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": "impressions"}) or 0.0
    caplog.set_level(logging.ERROR)
    close(second)
    assert Counter(request_id for request_id, *_ in world.labels(job, log)) == {f"r{number}": 2 for number in range(4, 10)}
    assert world.dead_letters(job, log) == [("impressions", offset, LOST) for offset in range(4)]
    assert REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": "impressions"}) == before + 4
    assert "'impressions'[0]: 4 impressions are gone whose examples are due: [0, 1, 2, 3]" in caplog.messages


def test_an_impression_that_the_log_has_lost_is_one_dead_letter_of_a_step(world: World) -> None:
    """Its examples are not next to each other: it was one for each run of them."""
    job = world.job(terminal_actions=["end"])
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, *(world.impression(name, items=(1, 2)) for name in ("r0", "r1")))
    second = restarted(world, job, log, kv)
    log.trim("impressions", 0, 2)
    world.append(job, log, *(world.action(name, "end", 1, item=item) for item in (1, 2) for name in ("r0", "r1")))
    before = REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": "impressions"}) or 0.0
    close(second)
    assert world.dead_letters(job, log) == [("impressions", offset, LOST) for offset in range(2)]
    assert REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": "impressions"}) == before + 2


def test_the_state_of_an_older_release_is_built_again_from_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    job = world.job(terminal_actions=["end"])
    log, kv = world.log(job), MemoryKv()
    for number in range(20):
        world.append(job, log, world.impression(f"r{number}", number, items=(1, 2)), world.action(f"r{number}", "end", number))
    restarted(world, job, log, kv)
    for key, value in kv.scan("joiner:test:examples:position:"):
        kv.write({key: json.dumps(json.loads(value) | {"version": 3}).encode()})
    for key, _ in kv.scan("joiner:test:examples:block:"):
        kv.write({key: b"\x01 of another form"})
    close(world.joiner(job, log, kv))
    assert Counter(request_id for request_id, *_ in world.labels(job, log)) == {f"r{number}": 2 for number in range(20)}
    assert "'examples'[0]: the state in the store is of an older release: building it again from the log" in caplog.messages
