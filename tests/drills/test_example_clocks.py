"""Clocks and the trainer: an example 8 hours ahead expires no other row; a wall clock that steps back costs no example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from surroundings import Deployment, WallClock, now_ms, wait_until

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io.codec import encode_examples
from monolith_py.table import EmbeddingTable

NUM_RECORDS, RECORD = 30, 16
AHEAD_MS = 8 * 3600 * 1000
DAY_MS = 24 * 3600 * 1000


def record_of(number: int, time_ms: int) -> ExampleBatch:
    """Return examples of as many new users, all at one time."""
    users, ones = np.arange(RECORD) + number * RECORD, np.ones(RECORD, np.int32)
    columns = FeatureColumns(RECORD, {"user_id": SparseColumn(users, ones), "video_id": SparseColumn(users, ones)})
    names = tuple(f"{number}-{row}" for row in range(RECORD))
    labels = {"click": (users % 2).astype(np.float32)}
    return ExampleBatch(names, users, np.full(RECORD, time_ms), np.zeros(RECORD, np.uint8), np.ones(RECORD, np.float32), labels, columns)


@pytest.mark.parametrize("age_ms", [3600 * 1000, 30 * DAY_MS], ids=["live", "backlog"])
def test_an_example_8_hours_ahead_expires_no_row(deploy: Callable[..., Deployment], age_ms: int) -> None:
    drill = deploy(trainer={"evict_interval_s": 10.0}, log={"partitions": 1})
    start_ms = now_ms() - age_ms
    for number in range(NUM_RECORDS):
        record = record_of(number, start_ms + number * 1000)
        if number == NUM_RECORDS // 2:
            times_ms = record.times_ms.copy()
            times_ms[RECORD // 2] += AHEAD_MS
            record = replace(record, times_ms=times_ms)
        time_ms = int(record.times_ms.max())
        drill.log.append(drill.topics.examples, [encode_examples(record)], time_ms=time_ms)
    drill.run("train", "--stop-at-end")
    is_refused = age_ms < AHEAD_MS
    assert len(drill.dead_letters()) == is_refused
    assert drill.checkpoint().meta.examples_trained == NUM_RECORDS * RECORD - is_refused
    table = EmbeddingTable.restore(drill.checkpoint().table("user_id"))
    assert table.stats().evicted == 0
    assert len(table.export_rows()[0]) == NUM_RECORDS * RECORD - is_refused


def test_a_trainer_whose_clock_steps_back_stops_by_name_and_goes_on_exactly(
    deploy: Callable[..., Deployment], wall_clock: WallClock
) -> None:
    drill = deploy(log={"partitions": 1})
    start_ms = now_ms() - NUM_RECORDS * 1000

    def append(numbers: range) -> None:
        for number in numbers:
            time_ms = start_ms + number * 1000
            drill.log.append(drill.topics.examples, [encode_examples(record_of(number, time_ms))], time_ms=time_ms)

    half = NUM_RECORDS // 2
    append(range(half))
    drill.run("train", "--stop-at-end")
    trainer = drill.start("train", **wall_clock.environment)
    wait_until(lambda: "restored" in trainer.said(), [trainer])
    wall_clock.shift(-AHEAD_MS / 1000)
    append(range(half, NUM_RECORDS))
    trainer.must_refuse("ClockStepped")
    drill.start("train", "--stop-at-end", **wall_clock.environment).must_refuse("ClockStepped")
    drill.run("train", "--stop-at-end")
    assert drill.checkpoint().meta.examples_trained == NUM_RECORDS * RECORD
    assert drill.dead_letters() == []
