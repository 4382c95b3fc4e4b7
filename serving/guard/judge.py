"""Judgement of a version: its figures on recent examples beside those of the reference.

Letters: n examples, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monolith_py.config import GuardConfig
from monolith_py.data.columns import FloatArray
from monolith_py.training.metrics import calibration, normalized_entropy, normalized_error
from monolith_serving.guard.recent_examples import ScoredExamples


@dataclass(frozen=True)
class TaskFigures:
    """Figures of one task on recent examples; NaN where one is not defined."""

    task: str
    ne_ratio: float  # normalised entropy of the version / of the reference; of a regression, squared error on its scale
    calibration: float  # mean score / mean label
    reference_calibration: float


@dataclass(frozen=True)
class Judgement:
    """Result for one version. Unjudged: no task has enough positives and negatives."""

    figures: Sequence[TaskFigures]
    faults: Sequence[str]
    is_judged: bool

    @property
    def is_good(self) -> bool:
        """Return whether replicas may apply the version."""
        return not self.faults


def judge(config: GuardConfig, tasks: Mapping[str, str | None], examples: ScoredExamples | None, scores: FloatArray | None) -> Judgement:
    """Judge a version by its scores float32 (n, T) of the examples; `tasks`: each label with the scale of a regression.

    Calibration counts by its distance from 1, and only as far as it is farther than that of the reference: a version that follows a real
    change of the label rate comes nearer to 1. So a version is held for its own faults, not for those of the labels.
    A regression is judged by its squared error alone: a mean of logarithms is below the mean.
    """
    if examples is None or scores is None:
        return Judgement((), (), is_judged=False)
    figures: list[TaskFigures] = []
    faults: list[str] = []
    is_judged = False
    for place, (task, scale) in enumerate(tasks.items()):
        values, labels = scores[:, place], examples.labels[:, place]
        if not np.isfinite(values).all():
            faults.append(f"{task}: scores must be finite, got NaN or Inf")
            continue
        num_positives = int((labels > (0 if scale else 0.5)).sum())
        if (num_positives if scale else min(num_positives, len(labels) - num_positives)) < config.min_positives:
            continue
        is_judged = True
        one = _figures(task, scale, labels, examples.weights, (values, examples.reference[:, place]))
        figures.append(one)
        faults += _faults(config, one, is_regression=scale is not None)
    return Judgement(figures, faults, is_judged)


def _figures(task: str, scale: str | None, labels: FloatArray, weights: FloatArray, scores: tuple[FloatArray, FloatArray]) -> TaskFigures:
    """Return the figures of `scores`: those of the version, and those of the reference."""
    if scale is None:
        ne, of_reference = (normalized_entropy(labels, one, weights) for one in scores)
    else:
        ne, of_reference = (normalized_error(labels, one, weights, scale) for one in scores)
    ratio = ne / of_reference if of_reference != 0 else math.nan
    return TaskFigures(task, ratio, *(calibration(labels, one, weights) for one in scores))


def _faults(config: GuardConfig, figures: TaskFigures, *, is_regression: bool) -> list[str]:
    faults = []
    if figures.ne_ratio > 1.0 + config.max_ne_rise:
        limit = f"guard.max_ne_rise {config.max_ne_rise:g}"
        figure = "squared error" if is_regression else "NE"
        faults.append(f"{figures.task}: {figure} is {figures.ne_ratio:.3f} times that of the served scores, above {limit}")
    if is_regression:
        return faults
    change = _distance(figures.calibration) - _distance(figures.reference_calibration)
    if change > math.log1p(config.max_calibration_change):
        limit = f"guard.max_calibration_change {config.max_calibration_change:g}"
        faults.append(f"{figures.task}: calibration {figures.calibration:.3f}, served {figures.reference_calibration:.3f}, beyond {limit}")
    return faults


def _distance(ratio: float) -> float:
    """Return the distance of a calibration from 1 on the log scale."""
    return abs(math.log(ratio)) if ratio > 0 else math.inf
