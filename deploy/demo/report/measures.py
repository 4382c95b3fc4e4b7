"""Measures of predictions and of delays. Letters: n predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.training import auc, calibration, normalized_entropy

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Headline:
    """Answer of the report in one sentence, and its main figures as (name, value)."""

    answer: str
    figures: list[tuple[str, str]]


@dataclass(frozen=True)
class Quality:
    """Quality of n predictions."""

    auc: float
    ne: float  # normalised entropy (He et al. 2014, equation 1)
    calibration: float  # mean prediction over mean label


def quality(labels: BoolArray, predictions: FloatArray) -> Quality:
    """Return the quality of the probabilities `predictions`, float64 (n,), for `labels`, bool (n,)."""
    return Quality(auc(labels, predictions), normalized_entropy(labels, predictions), calibration(labels, predictions))


def weighted_percentile(values: FloatArray, weights: FloatArray, percent: float) -> float:
    """Return the smallest value with at least `percent` of the weight at or below it; NaN for no values."""
    if not len(values):
        return float("nan")
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(share, percent / 100)), len(values) - 1)])


def request_auc(requests: npt.NDArray[np.int64], labels: BoolArray, predictions: FloatArray) -> float:
    """Return the mean AUC within a request, over requests with both labels; NaN if there is none. `requests` int64 (n,) is sorted.

    >>> request_auc(np.array([0, 0, 0, 1, 1, 2]), np.array([True, False, False, False, True, True]), np.array([.3, .1, .3, .2, .1, .5]))
    0.375
    """
    order = np.lexsort((predictions, requests))
    _, groups, sizes = np.unique(np.stack([requests[order], predictions[order]]), axis=1, return_inverse=True, return_counts=True)
    ranks = np.empty(len(requests))
    ranks[order] = (np.cumsum(sizes) - (sizes - 1) / 2)[groups.reshape(-1)]  # mean rank of equal predictions, over all requests
    _, starts, counts = np.unique(requests, return_index=True, return_counts=True)
    positives = np.add.reduceat(labels.astype(np.int64), starts)
    sums = np.add.reduceat(np.where(labels, ranks, 0.0), starts) - positives * starts
    pairs = positives * (counts - positives)
    both = pairs > 0
    return float(((sums - positives * (positives + 1) / 2)[both] / pairs[both]).mean()) if both.any() else float("nan")
