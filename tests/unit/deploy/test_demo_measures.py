"""Measures of the report, recomputed from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monolith_demo.report.measures import quality, request_auc, weighted_percentile

SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
PAIRS = st.lists(st.tuples(st.booleans(), SCORES), min_size=2, max_size=40)
WEIGHTED = st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 50)), min_size=1, max_size=20)


def arrays(pairs: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in pairs]), np.array([score for _, score in pairs])


@given(PAIRS)
def test_auc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half(pairs: list[tuple[bool, float]]) -> None:
    positives = [score for label, score in pairs if label]
    negatives = [score for label, score in pairs if not label]
    got = quality(*arrays(pairs)).auc
    if positives and negatives:
        wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
        assert got == pytest.approx(wins / (len(positives) * len(negatives)))
    else:
        assert math.isnan(got)


@given(PAIRS)
def test_ne_is_log_loss_over_that_of_the_mean_label_and_calibration_is_mean_over_mean(pairs: list[tuple[bool, float]]) -> None:
    rate = sum(label for label, _ in pairs) / len(pairs)
    assume(0 < rate < 1)
    clipped = [min(max(score, 1e-7), 1 - 1e-7) for _, score in pairs]
    loss = -sum(math.log(p if label else 1 - p) for (label, _), p in zip(pairs, clipped, strict=True)) / len(pairs)
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    got = quality(*arrays(pairs))
    assert got.ne == pytest.approx(loss / entropy)
    assert got.calibration == pytest.approx(sum(score for _, score in pairs) / len(pairs) / rate)


def test_predicting_the_mean_has_an_ne_of_one_and_an_auc_of_a_half() -> None:
    labels = np.arange(100) % 4 == 0
    got = quality(labels, np.full(100, 0.25))
    assert (got.auc, got.ne, got.calibration) == pytest.approx((0.5, 1.0, 1.0))


@given(WEIGHTED, st.integers(1, 100))
def test_a_weighted_percentile_is_the_smallest_value_that_so_much_of_the_weight_does_not_exceed(
    weighted: list[tuple[int, int]], percent: int
) -> None:
    total = sum(weight for _, weight in weighted)
    enough = [v for v, _ in weighted if 100 * sum(weight for value, weight in weighted if value <= v) >= percent * total]
    values, weights = (np.array(column, np.float64) for column in zip(*weighted, strict=True))
    assert weighted_percentile(values, weights, percent) == min(enough)


def test_a_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(weighted_percentile(np.array([]), np.array([]), 50))


@given(st.lists(PAIRS, min_size=1, max_size=6))
def test_request_auc_is_the_mean_over_requests_with_both_labels(requests: list[list[tuple[bool, float]]]) -> None:
    labels, scores = arrays([pair for pairs in requests for pair in pairs])
    numbers = np.repeat(np.arange(len(requests)) * 3, [len(pairs) for pairs in requests])
    aucs = [quality(*arrays(pairs)).auc for pairs in requests]
    known = [auc for auc in aucs if not math.isnan(auc)]
    got = request_auc(numbers, labels, scores)
    assert got == pytest.approx(sum(known) / len(known)) if known else math.isnan(got)
