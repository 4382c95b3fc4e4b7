"""AUC within requests, against the definition."""

from __future__ import annotations

import math

import numpy as np

from monolith_py.training import per_impression_auc


def by_definition(labels: np.ndarray, scores: np.ndarray, codes: np.ndarray) -> float:
    aucs = []
    for code in set(codes.tolist()):
        of = codes == code
        up, down = scores[of & (labels == 1)], scores[of & (labels == 0)]
        if len(up) and len(down):
            aucs.append(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in up for b in down]))
    return float(np.mean(aucs)) if aucs else math.nan


def test_it_is_the_mean_of_the_requests_with_both_labels() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        labels, codes = generator.integers(0, 2, 200), generator.integers(-5, 40, 200)
        scores = generator.integers(0, 6, 200) / 5  # many ties
        assert math.isclose(per_impression_auc(labels, scores, codes), by_definition(labels, scores, codes))


def test_ties_count_half() -> None:
    assert per_impression_auc([0, 1, 1, 0], [0.5, 0.5, 0.1, 0.9], [0, 0, 1, 1]) == 0.25


def test_it_is_nan_without_a_request_of_both_labels() -> None:
    assert math.isnan(per_impression_auc([0, 1], [0.1, 0.2], [0, 1]))
    assert math.isnan(per_impression_auc([], [], []))
