"""Ranking of a request: features, one batch with concurrent requests, probabilities, impression.

The served probabilities need no correction for sampling: training corrects the logits.
Letters: n candidates, T tasks, B candidates of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np

from monolith_py._core import RankedRequest
from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.schema import Schema
from monolith_py.errors import ModelNotFinite
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD, RANK_CANDIDATES
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.request_features import FeatureReader, RequestFeatures
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.batcher import Batcher
from monolith_serving.ranking.explanation import Explainer, Explanation
from monolith_serving.ranking.impression_encoder import ServedRequest
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.ranking.request import RankInput
from monolith_serving.ranking.work_limit import WorkLimit, work_of
from monolith_serving.replica.replica import Replica


@dataclass(frozen=True)
class Ranking:
    """Probabilities of a request's candidates, and the features that they were made of."""

    scores: FloatArray  # (n, T)
    model_version: str
    features: RequestFeatures


class Ranker:
    """Ranks requests from many threads."""

    def __init__(
        self,
        job: JobConfig,
        replica: Replica,
        store: FeatureStore,
        impressions: ImpressionWriter[ServedRequest | RankedRequest] | None,
        clock: Clock,
        model: Schema | None = None,
    ) -> None:
        """`model` is the schema of the replica's model if it is not that of the job, whose features it must have in part."""
        self._replica, self._impressions, self._clock = replica, impressions, clock
        self._features = FeatureReader(Schema.of(job), job.counters, store, model)
        schema = model or Schema.of(job)
        self._work = WorkLimit()
        self._explainer = Explainer(self._features, schema, replica, self._work, clock)
        self._batcher: Batcher[RequestFeatures, Ranking] = Batcher(self._score, job.serving.max_batch_candidates, clock)

    @property
    def order(self) -> RequestOrder:
        """Return the order of the features of a request."""
        return self._features.order

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features in an explanation, in order."""
        return self._explainer.names

    def rank(self, request: RankInput, deadline_s: float, is_active: Callable[[], bool] = lambda: True) -> Ranking:
        """Return the probabilities of the request's candidates; `deadline_s` is on the monotonic clock.

        Half of the time is for reading features. `is_active` tells whether the caller still waits.

        Raises:
            NotReady: no checkpoint was loaded yet.
            KvError: features cannot be read, and the settings want them.
            Overloaded: the answer would come after the deadline.
            TimeoutError: the deadline passed.
            CancelledError: the caller has left.
            ModelNotFinite: a probability is NaN or infinite.
        """
        self._replica.require_ready()
        begin_s = self._clock.monotonic_s()
        if begin_s >= deadline_s:
            raise TimeoutError("the deadline passed before the request was ranked")
        until_s = begin_s + (deadline_s - begin_s) / 2
        features = self._features.read(request.user_id, request.item_ids, request.context, until_s, request.candidates)
        left_s = deadline_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError("the deadline passed while features were read")
        if not is_active():
            raise CancelledError
        with self._work.admitted(work_of([features]), left_s):
            ranking = self._batcher.submit(features, len(request.item_ids), deadline_s, is_active)
        RANK_CANDIDATES.inc(len(request.item_ids))
        return ranking

    def explain(self, ranking: Ranking, deadline_s: float, is_active: Callable[[], bool]) -> Explanation:
        """Return the contributions of all features to the scores of the candidates of `ranking`, scored again by one model.

        Raises:
            Overloaded, TimeoutError, CancelledError, ModelNotFinite: as in `rank`.
        """
        return self._explainer.explain(ranking.features, deadline_s, is_active)

    def log(self, request: RankInput, ranking: Ranking) -> None:
        """Queue the impression of an answered request for the log."""
        if not ranking.features.is_complete:
            IMPRESSIONS_WITHHELD.labels(reason="features").inc()
        elif self._impressions is not None:
            served = ServedRequest(request, ranking.features, ranking.scores, ranking.model_version)
            self._impressions.put(served, served.num_bytes)

    def _score(self, group: Sequence[RequestFeatures]) -> list[Ranking | Exception]:
        """Return the rankings of several requests, scored as one batch; an error for a request whose probabilities are not finite."""
        begin_s = self._clock.monotonic_s()
        state = self._replica.state
        scores = state.predict(*self._features.batch(group))  # (B, T)
        self._work.note(work_of(group), self._clock.monotonic_s() - begin_s)
        bounds = np.cumsum([len(one.candidates) for one in group])[:-1]
        return [
            Ranking(part, state.version, one)
            if np.isfinite(part).all()
            else ModelNotFinite(f"probabilities of model {state.version} must be finite, got NaN or Inf")
            for part, one in zip(np.split(scores, bounds), group, strict=True)
        ]
