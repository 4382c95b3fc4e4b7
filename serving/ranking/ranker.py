"""Ranking of a request: features, one batch with concurrent requests, probabilities, impression.

The served probabilities need no correction for sampling: training corrects the logits.
Letters: n candidates, T tasks, B candidates of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.events import Impression
from monolith_py.data.schema import Schema
from monolith_py.errors import ModelNotFinite
from monolith_py.observe.metrics import RANK_CANDIDATES
from monolith_serving.features.order import FeatureOrder
from monolith_serving.features.request_features import FeatureReader, RequestFeatures
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.batcher import Batcher
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.ranking.request import RankInput
from monolith_serving.replica.replica import Replica


@dataclass(frozen=True)
class Ranking:
    """Probabilities of a request's candidates."""

    scores: FloatArray  # (n, T)
    model_version: str


class Ranker:
    """Ranks requests from many threads."""

    def __init__(self, job: JobConfig, replica: Replica, store: FeatureStore, impressions: ImpressionWriter | None, clock: Clock) -> None:
        self._replica, self._impressions, self._clock = replica, impressions, clock
        schema = Schema.of(job)
        self._tasks, self._arm = schema.tasks, job.serving.arm
        self._features = FeatureReader(schema, job.counters, store)
        self._batcher: Batcher[RequestFeatures, Ranking] = Batcher(self._score, job.serving.max_batch_candidates, clock)

    @property
    def context_order(self) -> FeatureOrder:
        """Return the order of the features in `RankInput.context`."""
        return self._features.context_order

    def rank(self, request: RankInput, deadline_s: float) -> Ranking:
        """Return the probabilities of the request's candidates and log the impression; `deadline_s` is on the monotonic clock.

        Raises:
            NotReady: no checkpoint was loaded yet.
            KvError: features cannot be read.
            TimeoutError: the deadline passed.
            ModelNotFinite: a probability is NaN or infinite.
        """
        self._replica.require_ready()
        features = self._features.read(request.user_id, request.item_ids, request.context)
        if self._clock.monotonic_s() >= deadline_s:
            raise TimeoutError("the deadline passed while features were read")
        ranking = self._batcher.submit(features, len(request.item_ids), deadline_s)
        RANK_CANDIDATES.inc(len(request.item_ids))
        if self._impressions is not None:
            self._impressions.put(lambda: self._impression(request, features, ranking))
        return ranking

    def _score(self, group: Sequence[RequestFeatures]) -> list[Ranking]:
        """Return the rankings of several requests, scored as one batch."""
        state = self._replica.state
        scores = state.predict(self._features.batch(group))  # (B, T)
        if not np.isfinite(scores).all():
            raise ModelNotFinite(f"probabilities of model {state.version} must be finite, got NaN or Inf")
        bounds = np.cumsum([len(one.candidates) for one in group])[:-1]
        return [Ranking(part, state.version) for part in np.split(scores, bounds)]

    def _impression(self, request: RankInput, features: RequestFeatures, ranking: Ranking) -> Impression:
        shared, candidates = self._features.columns(features)
        return Impression(
            request.request_id,
            request.time_ms,
            request.user_id,
            request.item_ids,
            shared,
            candidates,
            ranking.scores,
            self._tasks,
            ranking.model_version,
            self._arm,
        )
