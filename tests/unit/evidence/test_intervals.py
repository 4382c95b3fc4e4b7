"""Intervals and resampled AUCs, against definitions written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def intervals(evidence: Callable[[str], ModuleType]) -> ModuleType:
    return evidence("intervals")


def test_half_width_is_that_of_students_t(intervals: ModuleType) -> None:
    # Three values 1, 2, 3: mean 2, deviation 1, two degrees of freedom.
    assert intervals.half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))


def test_half_width_of_one_value_is_unknown(intervals: ModuleType) -> None:
    assert math.isnan(intervals.half_width([1.0]))


def test_resampled_auc_is_the_auc_of_the_examples_of_the_drawn_groups(intervals: ModuleType) -> None:
    generator = np.random.default_rng(5)
    labels, groups = generator.random(60) < 0.4, generator.integers(0, 9, 60)
    groups[:9] = np.arange(9)
    scores = np.round(generator.random(60), 1)  # so that there are ties
    got = intervals.resampled_aucs(labels, scores, groups)
    draws = np.random.default_rng(0)
    for auc in got:
        drawn = np.concatenate([np.flatnonzero(groups == group) for group in draws.integers(0, 9, 9)])
        positive, negative = scores[drawn][labels[drawn]], scores[drawn][~labels[drawn]]
        wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
        assert auc == pytest.approx(wins / (len(positive) * len(negative)), abs=1e-6)


def test_two_models_are_given_the_same_resamples(intervals: ModuleType) -> None:
    generator = np.random.default_rng(6)
    labels, scores, groups = generator.random(200) < 0.5, generator.random(200), np.arange(200) // 4
    np.testing.assert_array_equal(
        intervals.resampled_aucs(labels, scores, groups), intervals.resampled_aucs(labels, 3 * scores + 1, groups)
    )
