"""Progressive metrics against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.training import auc, calibration, label_rate, logloss, normalized_entropy

predictions = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=40)


@given(predictions)
def test_auc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half(pairs: list[tuple[bool, float]]) -> None:
    positives = [score for label, score in pairs if label]
    negatives = [score for label, score in pairs if not label]
    got = auc([label for label, _ in pairs], [score for _, score in pairs])
    if not positives or not negatives:
        assert math.isnan(got)
    else:
        wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
        assert got == pytest.approx(sum(wins) / len(wins))


@given(predictions)
def test_logloss_and_entropy_follow_their_sums(pairs: list[tuple[bool, float]]) -> None:
    labels, scores = [label for label, _ in pairs], [score for _, score in pairs]
    clipped = [min(max(score, 1e-7), 1 - 1e-7) for score in scores]
    expected = -sum(math.log(p if y else 1 - p) for y, p in zip(labels, clipped, strict=True)) / len(pairs)
    assert logloss(labels, scores) == pytest.approx(expected, rel=1e-6)
    rate = sum(labels) / len(labels)
    if 0 < rate < 1:
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        assert normalized_entropy(labels, scores) == pytest.approx(expected / entropy, rel=1e-6)
    else:
        assert math.isnan(normalized_entropy(labels, scores))


def test_calibration_is_mean_prediction_over_mean_label() -> None:
    assert calibration([1, 0, 0, 1], [0.5, 0.5, 0.25, 0.25]) == pytest.approx(0.75)
    assert math.isnan(calibration([0, 0], [0.5, 0.5]))


@given(predictions, st.randoms(use_true_random=False))
def test_a_weight_counts_a_prediction_several_times(pairs: list[tuple[bool, float]], random: Any) -> None:
    weights = [random.randint(0, 3) for _ in pairs]
    labels, scores = np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])
    copies = np.repeat(np.arange(len(pairs)), weights)
    for figure in (auc, logloss, normalized_entropy, calibration):
        assert figure(labels, scores, weights) == pytest.approx(figure(labels[copies], scores[copies]), nan_ok=True)
    assert label_rate(labels, weights) == pytest.approx(labels[copies].mean() if len(copies) else math.nan, nan_ok=True)


@given(predictions)
def test_a_negative_weight_takes_a_prediction_back(pairs: list[tuple[bool, float]]) -> None:
    labels, scores = np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])
    first_labels = labels.copy()
    first_labels[: len(pairs) // 2] = False  # the first half was counted as negative before its label was known
    late = np.flatnonzero(labels != first_labels)
    counted = (
        np.concatenate([first_labels, np.zeros(len(late)), np.ones(len(late))]),
        np.concatenate([scores, scores[late], scores[late]]),
        np.concatenate([np.ones(len(pairs)), -np.ones(len(late)), np.ones(len(late))]),
    )
    for figure in (auc, logloss, normalized_entropy, calibration):
        assert figure(*counted) == pytest.approx(figure(labels, scores), nan_ok=True)
