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
from monolith_py.training.metrics import calibration, normalized_entropy
from monolith_serving.guard.recent_examples import ScoredExamples


@dataclass(frozen=True)
class TaskFigures:
    """Figures of one task on recent examples; NaN where one is not defined."""

    task: str
    ne_ratio: float  # normalised entropy of the version / of the reference
    calibration: float  # mean score / mean label
    reference_calibration: float


@dataclass(frozen=True)
class Judgement:
    """Result for one version. Unjudged: no task of probabilities has enough positives and negatives."""

    figures: Sequence[TaskFigures]
    faults: Sequence[str]
    is_judged: bool

    @property
    def is_good(self) -> bool:
        """Return whether replicas may apply the version."""
        return not self.faults


def judge(config: GuardConfig, tasks: Mapping[str, bool], examples: ScoredExamples | None, scores: FloatArray | None) -> Judgement:
    """Judge a version by its scores float32 (n, T) of the examples. `tasks`: for each whether its scores are probabilities, not values.

    Values must be finite, no more: that judges a version of values alone.
    Calibration counts by its distance from 1, and only as far as it is farther than that of the reference: a version that follows a real
    change of the label rate comes nearer to 1. So a version is held for its own faults, not for those of the labels.
    """
    if examples is None or scores is None:
        return Judgement((), (), is_judged=False)
    figures: list[TaskFigures] = []
    faults: list[str] = []
    is_judged = not any(tasks.values())
    for place, (task, is_probability) in enumerate(tasks.items()):
        values, labels = scores[:, place], examples.labels[:, place]
        if not np.isfinite(values).all():
            faults.append(f"{task}: scores must be finite, got NaN or Inf")
            continue
        if not is_probability:
            continue
        num_positives = int((labels > 0.5).sum())
        if min(num_positives, len(labels) - num_positives) < config.min_positives:
            continue
        is_judged = True
        one = _figures(task, values, labels, examples.weights, examples.reference[:, place])
        figures.append(one)
        faults += _faults(config, one)
    return Judgement(figures, faults, is_judged)


def _figures(task: str, values: FloatArray, labels: FloatArray, weights: FloatArray, reference: FloatArray) -> TaskFigures:
    ne, of_reference = (normalized_entropy(labels, one, weights) for one in (values, reference))
    return TaskFigures(task, ne / of_reference, calibration(labels, values, weights), calibration(labels, reference, weights))


def _faults(config: GuardConfig, figures: TaskFigures) -> list[str]:
    faults = []
    if figures.ne_ratio > 1.0 + config.max_ne_rise:
        limit = f"guard.max_ne_rise {config.max_ne_rise:g}"
        faults.append(f"{figures.task}: NE is {figures.ne_ratio:.3f} times that of the served scores, above {limit}")
    change = _distance(figures.calibration) - _distance(figures.reference_calibration)
    if change > math.log1p(config.max_calibration_change):
        limit = f"guard.max_calibration_change {config.max_calibration_change:g}"
        faults.append(f"{figures.task}: calibration {figures.calibration:.3f}, served {figures.reference_calibration:.3f}, beyond {limit}")
    return faults


def _distance(ratio: float) -> float:
    """Return the distance of a calibration from 1 on the log scale."""
    return abs(math.log(ratio)) if ratio > 0 else math.inf
