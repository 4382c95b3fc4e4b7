"""Figures of scores: quality of one arm, and the interval of a gain over another.

Letters: n candidates, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.training.metrics import auc, calibration, label_rate, normalized_entropy, normalized_error, per_impression_auc

NUM_RESAMPLES = 200
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Quality of the scores of one arm for one task; NaN where a figure is not defined."""

    num_candidates: int
    auc: float
    per_impression_auc: float  # mean over requests with both labels
    ne: float  # normalised entropy; of a regression, squared error on its scale / that of the mean label
    calibration: float  # mean score / mean label
    label_rate: float


@dataclass(frozen=True)
class Gain:
    """AUC of one arm minus that of another, with the 95 % interval over users."""

    auc: float
    low: float
    high: float


def figures_of(labels: FloatArray, scores: FloatArray, request_codes: Int64Array, scale: str | None = None) -> Figures:
    """Return the quality of scores, float32 (n,), for labels, float32 (n,), of requests int64 (n,); `scale`: that of a regression."""
    if scale is not None:
        errors = normalized_error(labels, scores, scale=scale)
        return Figures(len(labels), math.nan, math.nan, errors, calibration(labels, scores), label_rate(labels))
    return Figures(
        len(labels),
        auc(labels, scores),
        per_impression_auc(labels, scores, request_codes),
        normalized_entropy(labels, scores),
        calibration(labels, scores),
        label_rate(labels),
    )


def gain_of(labels: FloatArray, scores: FloatArray, base: FloatArray, group_codes: Int64Array, seed: int = 0) -> Gain:
    """Return the gain in AUC of `scores` over `base`, both float32 (n,), with its interval over groups int64 (n,), codes from 0.

    The interval has the 2.5 % and 97.5 % quantiles of 200 resamples of whole groups with replacement, the same for both (cluster bootstrap,
    Field and Welsh 2007): candidates of one user are not independent.
    """
    generator = np.random.default_rng(seed)
    num_groups = int(group_codes.max(initial=-1)) + 1
    ranked, ranked_base = RankedScores(labels, scores), RankedScores(labels, base)
    gains = np.empty(NUM_RESAMPLES)
    for index in range(NUM_RESAMPLES):
        weights = np.bincount(generator.integers(0, num_groups, num_groups), minlength=num_groups)[group_codes].astype(np.float64)
        gains[index] = ranked.auc(weights) - ranked_base.auc(weights)
    defined = gains[~np.isnan(gains)]
    low, high = np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan)
    return Gain(auc(labels, scores) - auc(labels, base), float(low), float(high))


class RankedScores:
    """Scores in ascending order, for the AUC of many weightings."""

    def __init__(self, labels: FloatArray, scores: FloatArray) -> None:
        self._order = np.argsort(scores, kind="stable")
        self._positive = labels[self._order] > 0.5
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of each run of equal scores

    def auc(self, weights: Float64Array) -> float:
        """Return the weighted share of pairs in the right order, ties counting half; `weights` (n,) in the order of the candidates."""
        ordered = weights[self._order]
        up = np.add.reduceat(np.where(self._positive, ordered, 0.0), self._starts)
        down = np.add.reduceat(np.where(self._positive, 0.0, ordered), self._starts)
        num_pairs = up.sum() * down.sum()
        return float((up * (np.cumsum(down) - down / 2)).sum() / num_pairs) if num_pairs else float("nan")
