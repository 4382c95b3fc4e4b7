"""Judgement of versions: which tasks are compared, and what holds a version."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.config import GuardConfig
from monolith_py.model.batch import Batch
from monolith_serving.guard.judge import judge
from monolith_serving.guard.recent_examples import ScoredExamples

N = 400
NO_FEATURES = Batch(N, (), np.empty(0, np.int64), np.empty(0, np.int32), np.empty((N, 0), np.float32))


def examples_of(labels: np.ndarray, reference: np.ndarray) -> ScoredExamples:
    column = (len(labels), 1)
    return ScoredExamples(NO_FEATURES, labels.reshape(column), np.ones(N, np.float32), reference.reshape(column))


@pytest.fixture
def shares() -> np.ndarray:
    """Labels of a regression, all up to 1: shares of videos that were watched."""
    return np.random.default_rng(0).random(N).astype(np.float32)


def test_values_up_to_one_are_no_probabilities(shares):
    """A value of 1.001 was held as a wrong probability of 1."""
    examples = examples_of(shares, shares)
    scores = np.minimum(shares * 1.3, 1.001).reshape(N, 1)
    judgement = judge(GuardConfig(), {"share": False}, examples, scores)
    assert judgement.is_good and judgement.is_judged
    assert not judge(GuardConfig(), {"share": True}, examples, scores).is_good


def test_values_must_be_finite(shares):
    seconds = 100 * shares
    scores = seconds.reshape(N, 1).copy()
    assert judge(GuardConfig(), {"seconds": False}, examples_of(seconds, seconds), scores).is_good
    scores[7] = np.inf
    judgement = judge(GuardConfig(), {"seconds": False}, examples_of(seconds, seconds), scores)
    assert judgement.faults == ["seconds: scores must be finite, got NaN or Inf"]


def test_a_version_is_judged_by_probabilities_if_a_task_has_some(shares):
    clicks = (shares > 0.9).astype(np.float32)
    labels = np.stack([100 * shares, clicks], axis=1)
    examples = ScoredExamples(NO_FEATURES, labels, np.ones(N, np.float32), labels)
    few = judge(GuardConfig(min_positives=N), {"seconds": False, "click": True}, examples, labels)
    assert few.is_good and not few.is_judged
    assert judge(GuardConfig(min_positives=5), {"seconds": False, "click": True}, examples, labels).is_judged
