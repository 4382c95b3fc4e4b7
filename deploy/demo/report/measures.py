"""Measures of predictions and of delays. Letters: n predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.training import auc, calibration, normalized_entropy

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


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
