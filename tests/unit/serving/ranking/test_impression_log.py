"""Impression logging: in batches, to the request's partition, again after a refusal, without blocking the ranking threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Impression
from monolith_py.errors import LogError
from monolith_py.io.codec import decode_impression
from monolith_py.io.log.topics import partition_of
from monolith_py.observe.metrics import IMPRESSIONS_LOST
from monolith_serving.ranking import impression_log as module
from monolith_serving.ranking.impression_log import ImpressionWriter

PARTITIONS = 3


class GatedLog:
    """A log whose appends wait for a gate and fail as often as planned."""

    def __init__(self, log) -> None:
        self._log = log
        self.gate = threading.Event()
        self.gate.set()
        self.failures = 0
        self.appends: list[int] = []

    def append(self, topic, values, *, time_ms, partition=0):
        self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise LogError("away")
        self.appends.append(len(values))
        return self._log.append(topic, values, time_ms=time_ms, partition=partition)

    def num_partitions(self, topic):
        return self._log.num_partitions(topic)


@pytest.fixture
def log(make_log):
    log = make_log()
    log.create_topic("impressions", PARTITIONS)
    return log


@pytest.fixture
def gated(log):
    return GatedLog(log)


def impression(number: int, time_ms: int = 1000) -> Impression:
    empty = FeatureColumns(1)
    return Impression(f"request-{number}", time_ms, 1, np.array([2]), empty, empty, np.zeros((1, 0), np.float32))


def read(log) -> dict[int, list]:
    return {partition: log.read("impressions", partition, 0, 20_000) for partition in range(PARTITIONS)}


def test_every_impression_is_in_the_partition_of_its_request(log, gated):
    writer = ImpressionWriter(gated, "impressions", ManualClock())
    for number in range(50):
        writer.put(lambda number=number: impression(number))
    writer.close()
    found = read(log)
    for partition, records in found.items():
        assert {partition_of(decode_impression(record.value).request_id, PARTITIONS) for record in records} <= {partition}
    assert sum(map(len, found.values())) == 50


def test_impressions_that_gather_are_appended_together(gated):
    gated.gate.clear()
    writer = ImpressionWriter(gated, "impressions", ManualClock())
    for number in range(100):
        writer.put(lambda number=number: impression(number))
    gated.gate.set()
    writer.close()
    assert len(gated.appends) <= 2 * PARTITIONS


def test_each_impression_is_appended_with_its_own_time_in_order(log, gated):
    gated.gate.clear()
    writer = ImpressionWriter(gated, "impressions", ManualClock())
    for number in range(60):
        writer.put(lambda number=number: impression(number, time_ms=1000 + 100_000 * number))
    gated.gate.set()
    writer.close()
    assert len(gated.appends) <= 2 * PARTITIONS
    for records in read(log).values():
        assert [record.time_ms for record in records] == [decode_impression(record.value).time_ms for record in records]
        assert [record.time_ms for record in records] == sorted(record.time_ms for record in records)


def test_impressions_are_appended_again_once_the_log_accepts_them(log, gated):
    gated.failures = 4
    writer = ImpressionWriter(gated, "impressions", ManualClock())
    for number in range(10):
        writer.put(lambda number=number: impression(number))
    writer.close()
    assert sum(map(len, read(log).values())) == 10


def test_a_stop_waits_for_a_refusing_log_up_to_its_limit_and_counts_the_loss(gated):
    gated.failures = 10**9
    before = IMPRESSIONS_LOST._value.get()
    writer = ImpressionWriter(gated, "impressions", ManualClock())
    for number in range(10):
        writer.put(lambda number=number: impression(number))
    writer.close()
    assert IMPRESSIONS_LOST._value.get() == before + 10


def test_a_full_queue_loses_impressions_and_never_waits(log, gated):
    gated.gate.clear()
    before = IMPRESSIONS_LOST._value.get()
    writer = ImpressionWriter(gated, "impressions", ManualClock())
    total = module._MAX_QUEUED + module._MAX_BATCH + 100
    for number in range(total):
        writer.put(lambda number=number: impression(number))
    lost = IMPRESSIONS_LOST._value.get() - before
    assert lost >= 100
    gated.gate.set()
    writer.close()
    assert sum(map(len, read(log).values())) == total - lost
