"""Figures of each arm and differences between arms, with 95 % intervals.

Intervals have the 2.5 % and 97.5 % quantiles of resamples of whole users with replacement (cluster bootstrap, Field and Welsh 2007): the
candidates of one user are not independent. All arms see the same resamples, so a difference on the same requests is paired, and one
between arms with different users is not. Letters: n candidates, G users, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.training.metrics import auc, calibration, label_rate, normalized_entropy, normalized_error, on_scale
from monolith_streaming.backtest.figures import NUM_RESAMPLES, RankedScores
from monolith_streaming.compare.arms import Comparison

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Return whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ArmFigures:
    """Quality of one arm for one task, on all that it scored."""

    arm: str
    task: str
    num_requests: int
    num_candidates: int
    num_positives: float  # weighted, as negatives are sampled
    label_rate: float
    auc: Estimate
    ne: Estimate  # normalised entropy; of a regression, squared error on its scale / that of the mean label
    calibration: Estimate  # mean score / mean label


@dataclass(frozen=True)
class Difference:
    """An arm less the base for one task. Paired: on the candidates that both have scored; else each on its own users."""

    arm: str
    base: str
    task: str
    is_paired: bool
    num_candidates: int  # of the arm
    auc: Estimate
    ne: Estimate
    calibration: Estimate


def compare_arms(comparison: Comparison, seed: int = 0) -> tuple[list[ArmFigures], list[Difference]]:
    """Return the figures of each arm and task, and the difference of each arm to the first one."""
    figures: list[ArmFigures] = []
    differences: list[Difference] = []
    base = comparison.arms[0]
    for place, task in enumerate(comparison.tasks):
        scored = [np.flatnonzero(np.isfinite(arm.scores[:, place])) for arm in comparison.arms]
        samples: list[_Sample] = []
        pairs: list[tuple[int, bool, _Sample, _Sample]] = []
        for number, arm in enumerate(comparison.arms):
            samples.append(_Sample(comparison, place, arm.scores, scored[number]))
            if number:
                both = np.intersect1d(scored[0], scored[number], assume_unique=True)
                of_arm, of_base = (both, both) if len(both) else (scored[number], scored[0])
                parts = (_Sample(comparison, place, arm.scores, of_arm), _Sample(comparison, place, base.scores, of_base))
                pairs.append((number, bool(len(both)), *parts))
        _resample([*samples, *(one for pair in pairs for one in pair[2:])], comparison.user_codes, seed)
        figures += [one.figures(arm.title, task) for arm, one in zip(comparison.arms, samples, strict=True)]
        differences += [
            Difference(comparison.arms[number].title, base.title, task, is_paired, len(of_arm.rows), *_differences(of_arm, of_base))
            for number, is_paired, of_arm, of_base in pairs
        ]
    return figures, differences


class _Sample:
    """Candidates of one arm and task, with their figures in each resample."""

    def __init__(self, comparison: Comparison, place: int, scores: FloatArray, rows: Int64Array) -> None:
        self.rows = rows
        self._labels, self._scores = comparison.labels[rows, place], scores[rows, place]
        self._weights, self._users = comparison.weights[rows], comparison.user_codes[rows]
        self._num_requests = len(np.unique(comparison.request_codes[rows]))
        self._scale = comparison.scales[place]
        self._ranked = RankedScores(self._labels, self._scores) if len(rows) and self._scale is None else None
        y, p, weight = (values.astype(np.float64) for values in (self._labels, self._scores, self._weights))
        if self._scale is None:
            clipped, scaled = np.clip(p, 1e-7, 1.0 - 1e-7), y
            losses = -(y * np.log(clipped) + (1.0 - y) * np.log1p(-clipped))
        else:
            scaled = on_scale(y, self._scale)
            losses = (on_scale(p, self._scale) - scaled) ** 2
        num_users = int(comparison.user_codes.max()) + 1
        # By user: weight, weighted label, score, loss, label on the scale of a regression, and its square.
        columns = np.ones(len(y)), y, p, losses, scaled, scaled**2
        self._sums = np.stack([np.bincount(self._users, weight * of, num_users) for of in columns], axis=1)
        self.resampled: list[tuple[float, float, float]] = []

    def draw(self, counts: Int64Array) -> None:
        """Note the figures with each user counted `counts` (G,) times."""
        if not len(self.rows):
            self.resampled.append((np.nan, np.nan, np.nan))
            return
        total, labels, scores, losses, *moments = counts @ self._sums
        of_auc = np.nan if self._ranked is None else self._ranked.auc(np.asarray(counts[self._users] * self._weights, np.float64))
        ne = _ne(total, labels, losses) if self._scale is None else _relative_error(total, losses, *moments)
        self.resampled.append((of_auc, ne, scores / labels if labels > 0 else np.nan))

    @property
    def values(self) -> tuple[float, float, float]:
        """Return AUC, NE and calibration of the sample itself."""
        if not len(self.rows):
            return np.nan, np.nan, np.nan
        found = self._labels, self._scores, self._weights
        if self._scale is not None:
            return np.nan, normalized_error(*found, self._scale), calibration(*found)
        return auc(*found), normalized_entropy(*found), calibration(*found)

    def figures(self, arm: str, task: str) -> ArmFigures:
        """Return the figures with their intervals."""
        resampled = np.array(self.resampled)
        estimates = [_estimate(value, resampled[:, place]) for place, value in enumerate(self.values)]
        positives = float(self._weights @ (self._labels > 0)) if len(self.rows) else 0.0
        rate = label_rate(self._labels, self._weights) if len(self.rows) else np.nan
        return ArmFigures(arm, task, self._num_requests, len(self.rows), positives, float(rate), *estimates)


def _resample(samples: Sequence[_Sample], user_codes: Int64Array, seed: int) -> None:
    generator, num_users = np.random.default_rng(seed), int(user_codes.max()) + 1
    for _ in range(NUM_RESAMPLES):
        counts = np.bincount(generator.integers(0, num_users, num_users), minlength=num_users)
        for sample in samples:
            sample.draw(counts)


def _differences(of_arm: _Sample, of_base: _Sample) -> list[Estimate]:
    resampled = np.array(of_arm.resampled) - np.array(of_base.resampled)
    values = [arm - base for arm, base in zip(of_arm.values, of_base.values, strict=True)]
    return [_estimate(value, resampled[:, place]) for place, value in enumerate(values)]


def _estimate(value: float, resampled: Float64Array) -> Estimate:
    defined = resampled[~np.isnan(resampled)]
    low, high = np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def _ne(total: float, labels: float, losses: float) -> float:
    """Return the normalised entropy of sums over predictions: weights, weighted labels and weighted losses."""
    rate = labels / total if total > 0 else 0.0
    if not 0.0 < rate < 1.0:
        return np.nan
    return float(losses / total / -(rate * np.log(rate) + (1.0 - rate) * np.log1p(-rate)))


def _relative_error(total: float, errors: float, labels: float, squares: float) -> float:
    """Return the normalised squared error of sums over predictions: weights, weighted errors, labels and squares of labels."""
    variance = squares - labels**2 / total if total > 0 else 0.0
    return float(errors / variance) if variance > 1e-9 * squares else np.nan
