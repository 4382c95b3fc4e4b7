"""What the report says of predictions and delays, from their definitions. Letters: n predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Quality:
    """How good n predictions were."""

    auc: float
    ne: float  # normalised entropy (He et al. 2014, section 3): log loss over that of the mean label
    calibration: float  # mean prediction over mean label


def quality(labels: BoolArray, predictions: FloatArray) -> Quality:
    """Return the quality of probabilities (n,) for labels (n,)."""
    p = np.clip(predictions.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    loss = -np.where(labels, np.log(p), np.log1p(-p)).mean()
    rate = labels.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return Quality(auc(labels, predictions), float(loss / entropy), float(predictions.mean() / rate))


def auc(labels: BoolArray, predictions: FloatArray) -> float:
    """Return the share of pairs (positive, negative) whose positive has the higher prediction; an equal one counts half."""
    order = np.argsort(predictions, kind="stable")
    ranked = predictions[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    ranks = np.empty(len(ranked))
    ranks[order] = np.repeat(starts + (sizes + 1) / 2, sizes)  # from 1; equal predictions share their mean rank
    num_positives = int(labels.sum())
    num_negatives = len(labels) - num_positives
    if not num_positives or not num_negatives:
        return float("nan")
    return float((ranks[labels].sum() - num_positives * (num_positives + 1) / 2) / (num_positives * num_negatives))


def weighted_percentile(values: FloatArray, weights: FloatArray, percent: float) -> float:
    """Return the smallest value that at least `percent` of the weight does not exceed; NaN where there is none."""
    if not len(values):
        return float("nan")
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(share, percent / 100)), len(values) - 1)])
