"""Judgement of regressions and classes: by the kind of the task, not by the values that its labels happen to have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monolith_py.config import GuardConfig, TaskConfig
from monolith_py.data.class_labels import strongest
from monolith_serving.guard.judge import Judgement, judge
from monolith_serving.guard.recent_examples import ScoredExamples

CONFIG = GuardConfig(examples=400, min_positives=20)


def judged(labels: np.ndarray, reference: np.ndarray, scores: np.ndarray, scale: str | None) -> Judgement:
    columns: Any = [values.astype(np.float32)[:, None] for values in (labels, reference, scores)]
    examples = ScoredExamples(None, columns[0], np.ones(len(labels), np.float32), columns[1])  # type: ignore[arg-type]
    return judge(CONFIG, {"share": scale}, examples, columns[2])


@pytest.fixture
def shares() -> np.ndarray:
    """Shares of a video that were watched: none is above 1."""
    generator = np.random.default_rng(0)
    return np.where(generator.random(400) < 0.5, 0.0, generator.uniform(0.1, 1.0, 400))


@pytest.mark.parametrize("scale", ["value", "log1p"])
@pytest.mark.parametrize("factor", [1.0, 300.0])
def test_a_regression_is_judged_by_its_squared_error(shares: np.ndarray, scale: str, factor: float) -> None:
    labels = shares * factor
    reference = labels * 0.5 + 0.1 * factor
    better = judged(labels, reference, labels, scale)
    assert better.is_judged and better.is_good and better.figures[0].ne_ratio < 0.1
    worse = judged(labels, reference, np.zeros(400), scale)
    assert len(worse.faults) == 1 and "share: squared error is" in worse.faults[0]


def test_a_regression_whose_scores_are_not_finite_is_held(shares: np.ndarray) -> None:
    labels = shares * 300
    spoilt = np.where(labels > 0, np.inf, 0.0)
    assert list(judged(labels, labels, spoilt, "value").faults) == ["share: scores must be finite, got NaN or Inf"]


def test_of_the_classes_of_a_task_only_the_strongest_keeps_its_label() -> None:
    tasks = [TaskConfig(name="click"), TaskConfig(name="what", kind="multiclass", classes=("open", "like", "share"))]
    labels = np.float32([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]])
    assert strongest(labels, tasks).tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert strongest(labels, ()).tolist() == labels.tolist()
