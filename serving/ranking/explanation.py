"""Explanation of scores by feature: the score minus the score without the feature.

Letters: n candidates, T tasks, F features, sparse and dense.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np

from monolith_py.clock import Clock
from monolith_py.data.columns import FloatArray
from monolith_py.data.schema import Schema
from monolith_py.errors import ModelNotFinite
from monolith_serving.features.request_features import FeatureReader, RequestFeatures
from monolith_serving.ranking.work_limit import WorkLimit, work_of
from monolith_serving.replica.replica import Replica


@dataclass(frozen=True)
class Explanation:
    """Scores, and the contribution of each feature to each score."""

    scores: FloatArray  # (n, T)
    model_version: str
    contributions: FloatArray  # (n, T, F)


class Explainer:
    """Explains scores, each time with one model state. Safe for threads.

    A left-out feature is an empty bag, or zeros: its contribution says what this model would score without it, not what a model trained
    without it would. Contributions need not add up.
    """

    def __init__(self, features: FeatureReader, schema: Schema, replica: Replica, work: WorkLimit, clock: Clock) -> None:
        self._features, self._replica, self._work, self._clock = features, replica, work, clock
        self.names = (*schema.sparse_names, *schema.dense_names)

    def explain(self, features: RequestFeatures, deadline_s: float, is_active: Callable[[], bool]) -> Explanation:
        """Return the explanation of the candidates with `features`: one more scoring for each feature; `deadline_s` is monotonic.

        Raises:
            Overloaded: the answer would come after the deadline.
            TimeoutError: the deadline passed.
            CancelledError: the caller has left.
            ModelNotFinite: a probability is NaN or infinite.
        """
        state = self._replica.state
        work = (1 + len(self.names)) * work_of([features])
        with self._work.admitted(work, deadline_s - self._clock.monotonic_s()):
            scores = state.predict(*self._features.batch([features]))  # (n, T)
            parts = []
            for name in self.names:
                if self._clock.monotonic_s() >= deadline_s:
                    raise TimeoutError("the deadline passed before the scores were explained")
                if not is_active():
                    raise CancelledError
                parts.append(scores - state.predict(*self._features.batch([self._features.without(features, name)])))
        contributions = np.stack(parts, axis=-1)  # (n, T, F)
        if not (np.isfinite(scores).all() and np.isfinite(contributions).all()):
            raise ModelNotFinite(f"probabilities of model {state.version} must be finite, got NaN or Inf")
        return Explanation(scores, state.version, contributions)
