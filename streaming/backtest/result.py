"""Result of a backtest: scores of all arms at request time, final labels, and figures of both.

Letters: N scored candidates, T tasks, M examples that the trainer learnt after the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.training.metrics import auc
from monolith_streaming.backtest.figures import Figures, Gain, figures_of, gain_of

# Lengths of the intervals of a series; the shortest with at most so many intervals is chosen.
_INTERVALS_S = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400)
_MOST_INTERVALS = 60


@dataclass(frozen=True)
class Interval:
    """Figures of the requests of [start_ms, start_ms + length): arm -> task -> figures."""

    start_ms: int
    figures: Mapping[str, Mapping[str, Figures]]


@dataclass(frozen=True)
class BacktestResult:
    """Every scored candidate once, in the order of event time; scores are in the order of the tasks."""

    request_ids: tuple[str, ...]  # (N,)
    item_ids: Int64Array  # (N,)
    user_ids: Int64Array  # (N,)
    times_ms: Int64Array  # (N,) event time of the request
    labels: Mapping[str, FloatArray]  # task -> (N,) final labels, late actions and negatives that were sampled away included
    scores: Mapping[str, FloatArray]  # arm -> (N, T) at request time
    scales: Mapping[str, str | None]  # task -> scale of a regression; None: its score is a probability
    num_history: int  # examples learnt before the start
    num_examples: int  # examples learnt in all
    num_put_aside: int  # examples passed over, for a loss or gradient that was not finite or features that do not fit
    num_refused: int  # records passed over by the joiner: malformed, too late, or actions without a candidate
    progressive_labels: FloatArray  # (M, T) of the examples learnt after the start, in the order of learning
    progressive_scores: FloatArray  # (M, T) their probabilities just before learning: biased where labels close early

    @cached_property
    def request_codes(self) -> Int64Array:
        """Return a number for each request, int64 (N,), from 0 on."""
        return np.unique(np.array(self.request_ids), return_inverse=True)[1].astype(np.int64)

    @cached_property
    def user_codes(self) -> Int64Array:
        """Return a number for each user, int64 (N,), from 0 on."""
        return np.unique(self.user_ids, return_inverse=True)[1].astype(np.int64)

    def figures(self) -> dict[str, dict[str, Figures]]:
        """Return the figures of all scored candidates: arm -> task -> figures."""
        return self._figures_of(slice(None))

    def gains(self, base: str) -> dict[str, dict[str, Gain]]:
        """Return the gain in AUC of every other arm over arm `base`: arm -> task -> gain, without regressions.

        Intervals are over users, or over requests if all have the same user.

        Raises:
            KeyError: no arm is named `base`.
        """
        groups = self.user_codes if self.user_codes.any() else self.request_codes
        return {
            arm: {
                task: gain_of(values, scores[:, place], self.scores[base][:, place], groups)
                for place, (task, values) in enumerate(self.labels.items())
                if self.scales[task] is None
            }
            for arm, scores in self.scores.items()
            if arm != base
        }

    def progressive_auc(self) -> dict[str, float]:
        """Return the AUC of the trainer's own predictions just before learning, by task: a figure to distrust, not one of serving.

        NaN for a regression.
        """
        return {
            task: auc(self.progressive_labels[:, place], self.progressive_scores[:, place]) if self.scales[task] is None else math.nan
            for place, task in enumerate(self.labels)
        }

    def series(self, interval_s: float | None = None) -> list[Interval]:
        """Return the figures of each interval of event time that has requests; by default of a length that gives at most 60 of them."""
        interval_ms = round((interval_s or self._interval_s()) * 1000)
        codes = self.times_ms // interval_ms
        return [Interval(int(code) * interval_ms, self._figures_of(np.flatnonzero(codes == code))) for code in np.unique(codes)]

    def _interval_s(self) -> float:
        span_s = (int(self.times_ms.max()) - int(self.times_ms.min())) / 1000
        return next((length for length in _INTERVALS_S if span_s <= length * _MOST_INTERVALS), _INTERVALS_S[-1])

    def _figures_of(self, rows: slice | Int64Array) -> dict[str, dict[str, Figures]]:
        codes = self.request_codes[rows]
        return {
            arm: {
                task: figures_of(values[rows], scores[rows, place], codes, self.scales[task])
                for place, (task, values) in enumerate(self.labels.items())
            }
            for arm, scores in self.scores.items()
        }
