"""Slices of a log: every candidate once, with its final label; the same examples in either order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.events import Impression
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import ConfigError, TopicMissing
from monolith_py.io import Record
from monolith_streaming.backtest import FROZEN, BacktestOptions, Slice, Timeline, run_backtest

Key = tuple[str, int, int, float, float]


def keys(slices: list[Slice]) -> Counter[Key]:
    """Return the multiset of examples: request, item, kind, label, sample rate."""
    found: Counter[Key] = Counter()
    for one in slices:
        if one.examples is not None:
            found.update(keys_of(one.examples))
    return found


def keys_of(batch: ExampleBatch) -> list[Key]:
    columns = (batch.item_ids.tolist(), batch.kinds.tolist(), batch.labels["is_click"].tolist(), batch.sample_rates.tolist())
    return list(zip(batch.request_ids, *columns, strict=True))


def online(world: Any, job: Any, log: Any) -> Counter[Key]:
    """Return the examples of the online joiner."""
    world.join(job, log)
    return Counter(key for batch in world.batches(job, log) for key in keys_of(batch))


@pytest.mark.parametrize("emit", ["candidate", "request", "window"])
@pytest.mark.parametrize("order", ["service", "time"])
@pytest.mark.parametrize("slice_s", [1.0, 60.0])
def test_slices_have_the_examples_of_the_online_joiner(
    stream: Any, world: Any, filled_log: Callable[..., Any], order: Any, slice_s: float, emit: str
) -> None:
    rates = [{"feature": "item", "value": 2, "rate": 0.25}]
    job = stream.job(joiner={"negative_rate": 0.5, "negative_rates": rates, "max_records": 40, "emit": emit})
    log = filled_log(job, stream.events(300))
    options = BacktestOptions(start_ms=stream.start_ms + 3_000_000, order=order, slice_s=slice_s)
    slices = list(Timeline(job, log, options))
    assert keys(slices) == online(world, job, log)
    kinds = Counter(kind for _, _, kind, _, _ in keys(slices).elements())
    assert kinds[0] > 300 and kinds[1] > 30
    ends = [0, *(one.end_ms for one in slices)]
    assert all(before <= one.start_ms < one.end_ms for before, one in zip(ends, slices, strict=False))


class MarkedLog:
    """A log with an offset without a record at the end of each partition, as at the end of a transaction of Kafka."""

    def __init__(self, log: Any, num_marks: int) -> None:
        self._log, self._num_marks = log, num_marks

    def end_offset(self, topic: str, partition: int = 0) -> int:
        return self._log.end_offset(topic, partition) + self._num_marks

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        records: list[Record] = []
        if offset < self._log.end_offset(topic, partition):
            records = self._log.read(topic, partition, offset, max_records)
        return records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@pytest.mark.parametrize("num_marks", [0, 1, 200])
def test_the_last_impression_is_found_behind_offsets_without_a_record(stream: Any, filled_log: Callable[..., Any], num_marks: int) -> None:
    job, events = stream.job(), stream.events(20)
    log = filled_log(job, events)
    expected = max(event.time_ms for event in events if isinstance(event, Impression))
    assert Timeline(job, MarkedLog(log, num_marks), BacktestOptions(start_ms=stream.start_ms)).last_ms() == expected


def test_an_example_is_learnt_when_its_label_is_known(stream: Any, filled_log: Callable[..., Any]) -> None:
    job, t0 = stream.job(), stream.start_ms
    events = [
        stream.impression("a", 0, 1, [1, 2, 3]),
        stream.click("a", 5, 2),
        stream.click("a", 150, 3),
        stream.impression("b", 2000, 1, [1]),
    ]
    log = filled_log(job, events)
    learnt = {
        order: [
            ((one.start_ms - t0) // 1000, *key[1:4])
            for one in Timeline(job, log, BacktestOptions(start_ms=t0, order=order))
            if one.examples is not None
            for key in keys_of(one.examples)
        ]
        for order in ("service", "time")
    }
    assert learnt["service"] == [(5, 2, 0, 1), (100, 1, 0, 0), (100, 3, 0, 0), (150, 3, 1, 1), (2100, 1, 0, 0)]
    assert sorted(learnt["time"]) == sorted([(0, 2, 0, 1), (0, 1, 0, 0), (0, 3, 0, 0), (0, 3, 1, 1), (2000, 1, 0, 0)])


@pytest.mark.parametrize("order", ["service", "time"])
@pytest.mark.parametrize("batches", ["as_joined", "even"])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_every_candidate_is_scored_once_with_its_final_label(
    stream: Any, filled_log: Callable[..., Any], order: Any, batches: Any, rate: float
) -> None:
    job = stream.job(joiner={"negative_rate": rate, "max_records": 50})
    events = stream.events(200)
    options = BacktestOptions(
        start_ms=stream.start_ms + 1_000_000, end_ms=stream.start_ms + 5_000_000, order=order, batches=batches, arms=(FROZEN,)
    )
    result = run_backtest(job, Timeline(job, filled_log(job, events), options), options)
    clicked = {(event.request_id, event.item_id) for event in events if not isinstance(event, Impression)}
    expected = [
        (event.request_id, item_id)
        for event in events
        if isinstance(event, Impression) and options.start_ms <= event.time_ms < (options.end_ms or 0)
        for item_id in event.item_ids.tolist()
    ]
    scored = list(zip(result.request_ids, result.item_ids.tolist(), strict=True))
    assert scored == expected
    assert result.labels["is_click"].tolist() == [float(pair in clicked) for pair in scored]
    assert result.num_refused == 0
    if batches == "even":
        assert result.num_examples % job.trainer.batch_size == 0


def test_a_repeated_item_is_one_candidate_and_a_second_impression_none(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    twice = stream.impression("b", 10, 1, [4, 5, 4])
    log = filled_log(job, [stream.impression("a", 0, 1, [1]), twice, twice, stream.click("b", 12, 5)])
    options = BacktestOptions(start_ms=stream.start_ms + 10_000, arms=(FROZEN,))
    result = run_backtest(job, Timeline(job, log, options), options)
    assert list(zip(result.request_ids, result.item_ids.tolist(), result.labels["is_click"].tolist(), strict=True)) == [
        ("b", 4, 0.0),
        ("b", 5, 1.0),
    ]


def test_bad_records_are_counted(stream: Any, world: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    log = filled_log(job, stream.events(40))
    log.append("impressions", [b"no impression"], time_ms=stream.start_ms)
    world.append(job, log, stream.click("r1", 40 * 30, 777), stream.click("nobody", 40 * 30, 1))
    options = BacktestOptions(start_ms=stream.start_ms + 60_000, arms=(FROZEN,))
    assert run_backtest(job, Timeline(job, log, options), options).num_refused == 3


def test_late_impressions_after_the_end_are_not_counted(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job(joiner={"allowed_lateness_s": 0})
    events = [stream.impression(f"r{index}", 30 * index, 1, [1]) for index in range(40)]
    log = filled_log(job, [*events, stream.impression("late", 500, 1, [1])])
    for end_s, expected in ((400, 0), (600, 1)):
        options = BacktestOptions(start_ms=stream.start_ms, end_ms=stream.start_ms + end_s * 1000)
        assert sum(one.num_refused for one in Timeline(job, log, options)) == expected


def test_partitions_are_merged_by_event_time(stream: Any, world: Any) -> None:
    job = stream.job(log={"url": "sqlite:///unused", "partitions": 3})
    log = world.log(job)
    events = stream.events(150)
    for event in events:
        world.append(job, log, event, partition=int(event.request_id[1:]) % 2)  # the third is empty
    options = BacktestOptions(start_ms=stream.start_ms + 1_000_000, arms=(FROZEN,))
    slices = list(Timeline(job, log, options))
    times = np.concatenate([one.candidates.times_ms for one in slices if one.candidates])
    assert len(times) == 450 and (np.diff(times) >= 0).all()
    assert keys(slices) == online(world, job, log)


def test_slices_come_while_the_log_is_read(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job(joiner={"max_records": 20})
    log = filled_log(job, stream.events(500))
    reads: list[int] = []
    read = log.read

    class Counting(type(log)):  # type: ignore[misc]
        def read(self, *args: Any, **kwargs: Any) -> Any:
            reads.append(1)
            return read(*args, **kwargs)

    counting = Counting()
    counting.records = log.records
    slices = iter(Timeline(job, counting, BacktestOptions(start_ms=stream.start_ms)))
    for _ in range(100):
        next(slices)
    num_early = len(reads)
    assert len(list(slices)) > 500 and len(reads) > 3 * num_early


def test_records_after_the_start_of_the_timeline_are_not_read(stream: Any, world: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    log = filled_log(job, stream.events(30))
    timeline = Timeline(job, log, BacktestOptions(start_ms=stream.start_ms), ManualClock(stream.start_ms + 10**9))
    before = keys(list(timeline))
    world.append(job, log, stream.impression("new", 1000, 1, [1]))
    assert keys(list(timeline)) == before


@pytest.mark.parametrize(
    ("start_s", "end_s", "rule"),
    [
        (2000, None, "start must be at most the time of the last impression in 'impressions'"),
        (31, 59, "start and end must have impressions of 'impressions' in between"),
        (50, 50, "end_ms must be after start_ms"),
    ],
)
def test_a_range_without_requests_is_refused(
    stream: Any, filled_log: Callable[..., Any], start_s: int, end_s: int | None, rule: str
) -> None:
    job, t0 = stream.job(), stream.start_ms
    log = filled_log(job, stream.events(10))
    with pytest.raises(ConfigError, match=rule):
        Timeline(job, log, BacktestOptions(start_ms=t0 + start_s * 1000, end_ms=None if end_s is None else t0 + end_s * 1000))


def test_a_missing_topic_is_named(stream: Any, world: Any) -> None:
    with pytest.raises(TopicMissing, match="impressions"):
        Timeline(stream.job(), world.MemoryLog(), BacktestOptions(start_ms=1))
