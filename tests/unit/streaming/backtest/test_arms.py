"""Arms take over the trainer's state at boundaries of event time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monolith_py.errors import ConfigError
from monolith_streaming.backtest import DAILY, FROZEN, HOURLY, LIVE, Arm, BacktestOptions, Timeline, run_backtest


def changes(scores: np.ndarray) -> set[int]:
    """Return the places at which a score differs from the one before."""
    return set((np.flatnonzero(scores[1:] != scores[:-1]) + 1).tolist())


def test_each_arm_changes_at_its_own_times(stream: Any, filled_log: Callable[..., Any]) -> None:
    job = stream.job()
    # Alone in their slices: the last bit of a score depends on the number of rows scored together.
    probes = [stream.impression(f"p{minute:03}", minute * 60 + 15, 77, [99]) for minute in range(1160, 1500)]
    log = filled_log(job, sorted([*stream.events(800, every_s=30.0, from_s=1100 * 60), *probes], key=lambda event: event.time_ms))
    options = BacktestOptions(start_ms=stream.start_ms + 1160 * 60_000, end_ms=stream.start_ms + 1500 * 60_000, slice_s=7.0)
    result = run_backtest(job, Timeline(job, log, options), options)
    is_probe = np.array([request_id.startswith("p") for request_id in result.request_ids])
    minutes = (result.times_ms[is_probe] - stream.start_ms) // 60_000
    changed = {arm: {int(minutes[place]) for place in changes(scores[is_probe, 0])} for arm, scores in result.scores.items()}
    assert changed["frozen"] == set()
    assert changed["hourly"] == set(range(1200, 1500, 60))
    assert changed["daily"] == {1440}
    assert len(changed["live"]) > 250


def test_a_copy_scores_as_the_original_for_every_pooling(stream: Any, filled_log: Callable[..., Any]) -> None:
    features = [
        {"name": "user", "source": "user_id", "dim": 8, "pooling": "mean"},
        {"name": "item", "source": "item", "dim": 8, "admit_after": 2},
    ]
    job = stream.job(features=features, model={"kind": "dlrm", "tower": [16], "precision": "fp32"})
    log = filled_log(job, stream.events(60))
    options = BacktestOptions(start_ms=stream.start_ms + 1_000_000, slice_s=1000, arms=(LIVE, Arm("second", 1.0)))
    result = run_backtest(job, Timeline(job, log, options), options)
    assert result.scores["live"].tolist() == result.scores["second"].tolist()


@pytest.mark.parametrize(
    ("text", "arm"), [("live", LIVE), ("hourly", HOURLY), ("daily", DAILY), ("frozen", FROZEN), ("ten=600", Arm("ten", 600.0))]
)
def test_an_arm_is_parsed(text: str, arm: Arm) -> None:
    assert Arm.parse(text) == arm


@pytest.mark.parametrize("text", ["weekly", "x=soon", "=5", "x=-1", "a b=5", "x=nan"])
def test_a_wrong_arm_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Arm.parse(text)


def test_no_slice_reaches_over_a_boundary(stream: Any) -> None:
    options = BacktestOptions(start_ms=1_000, end_ms=9_500, slice_s=7.0, arms=(LIVE, Arm("four", 4.0)))
    assert [options.slice_of(time_ms) for time_ms in (0, 1_000, 5_000, 7_000, 9_000, 9_500, 12_000)] == [
        (0, 1_000),
        (1_000, 4_000),
        (4_000, 7_000),
        (7_000, 8_000),
        (8_000, 9_500),
        (9_500, 12_000),
        (12_000, 14_000),
    ]
