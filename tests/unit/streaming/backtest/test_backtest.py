"""A whole backtest: no effect on the job, the same bits again, and figures that early positives do not bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.data.events import Impression
from monolith_py.errors import ConfigError
from monolith_py.training import Trainer, auc
from monolith_streaming.backtest import FROZEN, LIVE, Backtest, BacktestOptions, Timeline, run_backtest


def test_served_scores_are_not_biased_by_positives_that_close_early(stream: Any, filled_log: Callable[..., Any]) -> None:
    """Labels are independent of everything: the AUC of any scores from before the labels is 1/2."""
    optimizer = {"sparse": {"kind": "rowwise_adagrad", "lr": 0.3}, "dense": {"lr": 0.001, "reference_batch": 16}}
    job = stream.job(optimizer=optimizer)
    generator, events = np.random.default_rng(1), []
    for index in range(700):
        at_s, items = index * 20.0, generator.choice(1000, 6, replace=False).tolist()
        events.append(stream.impression(f"r{index}", at_s, index, items))
        events += [stream.click(f"r{index}", at_s + 3 + place, item) for place, item in enumerate(items) if generator.random() < 0.4]
    log = filled_log(job, sorted(events, key=lambda event: event.time_ms))
    options = BacktestOptions(start_ms=stream.start_ms + 600_000, arms=(LIVE, FROZEN))
    result = run_backtest(job, Timeline(job, log, options), options)
    served = result.figures()["live"]["is_click"]
    assert abs(served.auc - 0.5) < 0.03
    assert abs(served.per_impression_auc - 0.5) < 0.03
    assert result.progressive_auc()["is_click"] < 0.43
    assert result.progressive_auc()["is_click"] == auc(result.progressive_labels[:, 0], result.progressive_scores[:, 0])


def test_two_runs_have_the_same_bits(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    options = BacktestOptions(start_ms=stream.start_ms + 1_000_000)
    timeline = Timeline(job, filled_log(job, stream.events(150)), options)
    first, second, third = (run_backtest(job, slices, options) for slices in (timeline, timeline, list(timeline)))
    for other in (second, third):
        assert all(first.scores[arm].tobytes() == other.scores[arm].tobytes() for arm in first.scores)
        assert first.request_ids == other.request_ids and first.figures() == other.figures()
    assert first.gains("frozen") == second.gains("frozen")


def test_intervals_are_over_requests_where_all_have_one_user(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    events = [replace(event, user_id=0) if isinstance(event, Impression) else event for event in stream.events(100)]
    options = BacktestOptions(start_ms=stream.start_ms + 1_000_000, slice_s=60, arms=(LIVE, FROZEN))
    gain = run_backtest(job, Timeline(job, filled_log(job, events), options), options).gains("frozen")["live"]["is_click"]
    assert gain.low < gain.auc < gain.high


def test_the_job_is_left_alone(stream: Any, filled_log: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    job = stream.job(trainer={"checkpoint_dir": str(folder)}, kv={"url": f"sqlite:///{tmp_path}/kv"})
    log = filled_log(job, stream.events(100))
    before = {topic: [list(records) for records in partitions] for topic, partitions in log.records.items()}
    options = BacktestOptions(start_ms=stream.start_ms + 1_000_000)
    run_backtest(job, Timeline(job, log, options), options)
    assert log.records == before
    assert list(tmp_path.iterdir()) == []


def test_a_poisoned_example_is_passed_over(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job(dense_features=[{"name": "price", "source": "item", "dim": 1}])
    events = stream.events(60)
    log = filled_log(job, events)
    options = BacktestOptions(start_ms=stream.start_ms + 600_000, batches="even")
    slices = list(Timeline(job, log, options))
    clean = run_backtest(job, slices, options)
    marked = next(one for one in slices if one.start_ms < options.start_ms and one.examples is not None)
    assert marked.examples is not None
    num = len(marked.examples)
    marked.examples.features.dense["price"] = np.full((num, 1), np.inf, np.float32)  # type: ignore[index]
    result = run_backtest(job, slices, options)
    assert result.num_put_aside == num
    assert clean.num_put_aside == 0
    assert np.isfinite(result.scores["live"]).all()


def test_scoring_makes_no_row(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    log = filled_log(job, [stream.impression("a", 0, 1, [1]), stream.impression("b", 10, 2, [2, 3]), stream.click("b", 11, 3)])
    options = BacktestOptions(start_ms=stream.start_ms + 10_000)
    backtest = Backtest(job, options)
    slices = list(Timeline(job, log, options))
    backtest.run(slices)
    assert len(backtest.trainer.bags.tables["item"]) == 3
    plain = Trainer(job)
    for one in slices:
        if one.examples is not None:
            plain.step(one.examples)
    for name, table in plain.bags.tables.items():
        assert table.stats() == backtest.trainer.bags.tables[name].stats()


def test_labels_of_one_kind_are_refused(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    log = filled_log(job, [stream.impression("a", 0, 1, [1]), stream.impression("b", 10, 2, [2, 3])])
    options = BacktestOptions(start_ms=stream.start_ms + 10_000)
    with pytest.raises(ConfigError, match=r"a task must have a positive and a negative .*, got \{'is_click': 0\} positives of 2"):
        run_backtest(job, Timeline(job, log, options), options)


def test_a_timeline_without_a_scored_request_is_refused(stream: Any) -> None:
    with pytest.raises(ConfigError, match="start and end must have a valid impression in between"):
        run_backtest(stream.job(), [], BacktestOptions(start_ms=1))


def test_labels_of_every_kind_of_task_are_those_of_the_actions(stream: Any, filled_log: Callable[..., Any]) -> None:
    tasks = [
        {"name": "seconds", "kind": "regression", "action": "watch"},
        {"name": "what", "kind": "multiclass", "classes": ["click", "share"]},
        {"name": "is_click", "action": "click"},
    ]
    job = stream.job(tasks=tasks)
    events: list[Any] = []
    wanted: dict[tuple[str, int], tuple[float, ...]] = {}
    for index in range(60):
        at_s, watched, later = index * 20.0, 2.0 ** (index % 5), 2.0 ** (index % 3)
        events.append(stream.impression(f"r{index}", at_s, index % 7, [1, 2, 3]))
        for kind, item, after_s, value in (("watch", 1, 5, watched), ("watch", 1, 50, later), ("click", 2, 6, 1), ("share", 2, 7, 1)):
            events.append(replace(stream.click(f"r{index}", at_s + after_s, item), kind=kind, value=value))
        events.append(stream.click(f"r{index}", at_s + 8, 3))
        wanted |= {(f"r{index}", 1): (max(watched, later), 0, 0, 0), (f"r{index}", 2): (0, 0, 1, 1), (f"r{index}", 3): (0, 1, 0, 1)}
    log = filled_log(job, sorted(events, key=lambda event: event.time_ms))
    options = BacktestOptions(start_ms=stream.start_ms + 400_000, arms=(LIVE, FROZEN))
    result = run_backtest(job, Timeline(job, log, options), options)
    assert list(result.labels) == ["seconds", "what.click", "what.share", "is_click"]
    found = np.stack(list(result.labels.values()), axis=1)
    expected = np.array([wanted[key] for key in zip(result.request_ids, result.item_ids.tolist(), strict=True)])
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    figures = result.figures()["live"]
    assert np.isnan(figures["seconds"].auc) and figures["seconds"].ne < 2 and figures["is_click"].auc > 0.5
    assert set(result.gains("frozen")["live"]) == {"what.click", "what.share", "is_click"}
    assert np.isnan(result.progressive_auc()["seconds"])
