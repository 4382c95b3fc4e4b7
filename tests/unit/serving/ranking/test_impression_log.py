"""Impression logging: in batches, to the request's partition, again after a refusal, without blocking the ranking threads."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import ServingConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Impression
from monolith_py.errors import LogError, RecordRefused
from monolith_py.io.codec import decode_impression, encode_impression
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


def encode(impressions) -> list[bytes]:
    return [encode_impression(one) for one in impressions]


def read(log) -> dict[int, list]:
    return {partition: log.read("impressions", partition, 0, 20_000) for partition in range(PARTITIONS)}


def test_every_impression_is_in_the_partition_of_its_request(log, gated):
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    for number in range(50):
        writer.put(impression(number), 100)
    writer.close()
    found = read(log)
    for partition, records in found.items():
        assert {partition_of(decode_impression(record.value).request_id, PARTITIONS) for record in records} <= {partition}
    assert sum(map(len, found.values())) == 50


def test_partitions_that_are_added_get_impressions(gated):
    clock = ManualClock()
    gated.num_partitions = lambda topic: 1
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), clock, encode)
    gated.num_partitions = lambda topic: PARTITIONS
    clock.advance(module._PARTITIONS_INTERVAL_S)
    for number in range(50):
        writer.put(impression(number), 100)
    writer.close()
    assert all(read(gated._log).values())


def test_impressions_that_gather_are_appended_together(gated):
    gated.gate.clear()
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    for number in range(100):
        writer.put(impression(number), 100)
    gated.gate.set()
    writer.close()
    assert len(gated.appends) <= 2 * PARTITIONS


def test_each_impression_is_appended_with_its_own_time_in_order(log, gated):
    gated.gate.clear()
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    for number in range(60):
        writer.put(impression(number, time_ms=1000 + 100_000 * number), 100)
    gated.gate.set()
    writer.close()
    assert len(gated.appends) <= 2 * PARTITIONS
    for records in read(log).values():
        assert [record.time_ms for record in records] == [decode_impression(record.value).time_ms for record in records]
        assert [record.time_ms for record in records] == sorted(record.time_ms for record in records)


def test_impressions_are_appended_again_once_the_log_accepts_them(log, gated):
    gated.failures = 4
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    for number in range(10):
        writer.put(impression(number), 100)
    writer.close()
    assert sum(map(len, read(log).values())) == 10


def lost(reason: str) -> float:
    return IMPRESSIONS_LOST.labels(reason=reason)._value.get()


def test_a_stop_waits_for_a_refusing_log_up_to_its_limit_and_counts_the_loss(gated):
    gated.failures = 10**9
    before = lost("stop")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    for number in range(10):
        writer.put(impression(number), 100)
    writer.close()
    assert lost("stop") == before + 10


def test_one_limit_holds_for_a_whole_stop_however_many_batches_wait(gated):
    """A limit for each batch of 500 kept a replica with 6,600 queued impressions beyond the 35 s that Kubernetes waits."""
    gated.failures = 10**9
    clock = ManualClock()
    before = lost("stop")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), clock, encode)
    for number in range(6_600):
        writer.put(impression(number), 100)
    stopping_s = clock.monotonic_s()
    writer.close()
    assert lost("stop") == before + 6_600
    assert clock.monotonic_s() - stopping_s <= module._FLUSH_S + 2 * module._RETRY_S


def test_a_stop_returns_though_an_append_hangs(gated, monkeypatch):
    monkeypatch.setattr(module, "_FLUSH_S", 0.1)
    gated.gate.clear()
    before = lost("stop")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    writer.put(impression(1), 100)
    writer.close()
    assert lost("stop") == before + 1
    gated.gate.set()
    writer._thread.join()
    assert lost("stop") == before + 1


def test_the_queue_is_bounded_in_bytes_and_a_full_one_never_waits(log, gated):
    gated.gate.clear()
    before = lost("queue")
    config = ServingConfig(impression_queue_bytes=1 << 20, max_impression_bytes=1 << 20)
    writer = ImpressionWriter(gated, "impressions", config, ManualClock(), encode)
    for number in range(100):
        writer.put(impression(number), 100_000)
    assert lost("queue") - before == 90  # ten of 100,000 bytes fit one MiB, at once
    gated.gate.set()
    writer.close()
    assert sum(map(len, read(log).values())) == 10


def test_an_oversize_impression_is_refused_before_it_is_queued(log, gated):
    before = lost("oversize")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(max_impression_bytes=1000), ManualClock(), encode)
    writer.put(impression(0), 1001)
    assert lost("oversize") == before + 1
    writer.put(impression(1), 1000)
    writer.close()
    assert sum(map(len, read(log).values())) == 1


def test_an_impression_that_encodes_larger_than_expected_is_lost_alone(log, gated):
    before = lost("oversize")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(max_impression_bytes=200), ManualClock(), encode)
    for number in range(10):
        build = impression(number) if number != 4 else replace(impression(4), model_version="v" * 300)
        writer.put(build, 100)
    writer.close()
    assert lost("oversize") == before + 1 and sum(map(len, read(log).values())) == 9


class PoisonedLog(GatedLog):
    """A log that takes everything but records with some bytes in them."""

    def __init__(self, log, poison: bytes, error: Exception) -> None:
        super().__init__(log)
        self._poison, self._error = poison, error

    def append(self, topic, values, *, time_ms, partition=0):
        if any(self._poison in value for value in values):
            raise self._error
        return super().append(topic, values, time_ms=time_ms, partition=partition)


@pytest.mark.parametrize("error", [LogError("record too large"), TypeError("a bug of a driver")])
def test_an_impression_that_the_log_refuses_for_good_is_put_aside_and_blocks_no_other(log, error):
    """One impression of 17.6 MB kept the 100 behind it out of the log."""
    before = lost("refused")
    poisoned = PoisonedLog(log, b"request-7", error)
    poisoned.gate.clear()
    writer = ImpressionWriter(poisoned, "impressions", ServingConfig(), ManualClock(), encode)
    numbers = [number for number in range(7, 100) if number == 7 or not str(number).startswith("7")]
    for number in numbers:
        writer.put(impression(number), 100)
    poisoned.gate.set()
    writer.close()
    found = {decode_impression(record.value).request_id for records in read(log).values() for record in records}
    assert found == {f"request-{number}" for number in numbers if number != 7}
    assert lost("refused") == before + 1


def test_an_impression_that_the_log_will_never_take_is_put_aside_at_once(log):
    """The writer waited and tried three times, whatever the log said; alone in its log such a record was tried for ever."""
    before, clock = lost("refused"), ManualClock()
    poisoned = PoisonedLog(log, b"request-", RecordRefused("record too large"))
    poisoned.gate.clear()
    writer = ImpressionWriter(poisoned, "impressions", ServingConfig(), clock, encode)
    begin_s = clock.monotonic_s()
    for number in range(100):
        writer.put(replace(impression(number), request_id=f"{'request' if number % 9 else 'ok'}-{number}"), 100)
    poisoned.gate.set()
    while lost("refused") < before + 88:
        threading.Event().wait(0.001)
    assert clock.monotonic_s() == begin_s  # no pause: the log is there
    writer.close()
    assert lost("refused") == before + 88 and sum(map(len, read(log).values())) == 12


def test_an_impression_that_cannot_be_encoded_is_lost_alone(log, gated, caplog):
    before = lost("encode")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    writer.put(replace(impression(1), request_id="\ud800"), 100)
    writer.put(impression(2), 100)
    writer.close()
    assert lost("encode") == before + 1 and sum(map(len, read(log).values())) == 1
    assert "one impression cannot be encoded" in caplog.text


def test_a_log_that_was_away_gets_every_impression_once_it_is_back(log, gated):
    """Nothing is put aside while the log takes no record at all."""
    gated.failures = 40
    before = lost("refused")
    writer = ImpressionWriter(gated, "impressions", ServingConfig(), ManualClock(), encode)
    for number in range(300):
        writer.put(impression(number), 100)
    while gated.failures:
        threading.Event().wait(0.001)
    writer.close()
    assert sum(map(len, read(log).values())) == 300 and lost("refused") == before


def test_a_queue_must_hold_the_largest_impression():
    with pytest.raises(ValueError, match=r"serving\.max_impression_bytes must be <= impression_queue_bytes 1, got 2"):
        ServingConfig(max_impression_bytes=2, impression_queue_bytes=1)
