"""Ranks the candidates of a request: features, one batch with the requests that came meanwhile, probabilities, impression.

The probability served is the one that was learnt: logits are corrected for sampling in training only.
Letters: n candidates, T tasks, B candidates of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, FloatArray
from monolith_py.data.events import Impression
from monolith_py.data.schema import Schema
from monolith_py.model.batch import make_batch
from monolith_py.observe.metrics import RANK_CANDIDATES
from monolith_serving.features.packed import FeatureOrder, PackedRows
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


@dataclass(frozen=True)
class _Features:
    """One request's features: one shared row, n candidate rows."""

    shared: PackedRows
    candidates: PackedRows


class Ranker:
    """Ranks requests from many threads."""

    def __init__(self, job: JobConfig, replica: Replica, store: FeatureStore, impressions: ImpressionWriter | None, clock: Clock) -> None:
        self._replica, self._store, self._impressions, self._clock = replica, store, impressions, clock
        self._schema = schema = Schema.of(job)
        self.context_layout = FeatureOrder.of(schema, "context")
        keys = job.counters.keys if job.counters.enabled else ()
        self._shared_names = store.user_layout.names + self.context_layout.names
        self._shared_keys = tuple(key for key in keys if key in self._shared_names)
        self._candidate_keys = tuple(key for key in keys if key not in self._shared_names)
        counters = {dense.name: dense for dense in schema.dense_features if dense.source == "counter"}
        self._shared_dense = (
            *store.user_layout.dense,
            *self.context_layout.dense,
            *(counters[f"counter_{key}"] for key in self._shared_keys),
        )
        self._candidate_dense = (*store.item_layout.dense, *(counters[f"counter_{key}"] for key in self._candidate_keys))
        self._batcher: Batcher[_Features, Ranking] = Batcher(self._score, job.serving.max_batch_candidates, clock)

    def rank(self, request: RankInput, deadline_s: float) -> Ranking:
        """Return the probabilities of the request's candidates and log the impression; `deadline_s` is on the monotonic clock.

        Raises:
            NotReady: no model yet.
            KvError: features cannot be read.
            TimeoutError: the deadline passed.
        """
        assert self._replica.state is not None
        features = self._features(request)
        if self._clock.monotonic_s() >= deadline_s:
            raise TimeoutError("the deadline passed while features were read")
        ranking = self._batcher.submit(features, len(request.item_ids), deadline_s)
        RANK_CANDIDATES.inc(len(request.item_ids))
        if self._impressions is not None:
            self._impressions.put(lambda: self._impression(request, features, ranking))
        return ranking

    def _features(self, request: RankInput) -> _Features:
        shared = self._store.user(request.user_id)
        if self.context_layout.names or self.context_layout.dense:
            shared = shared.beside(PackedRows.of([request.context]))
        candidates = self._store.items(request.item_ids.tolist())
        return _Features(
            self._with_counters(shared, self._shared_names, self._shared_keys),
            self._with_counters(candidates, self._store.item_layout.names, self._candidate_keys),
        )

    def _with_counters(self, rows: PackedRows, names: Sequence[str], keys: Sequence[str]) -> PackedRows:
        """Return the rows with the counters of each feature in `keys`: the mean over a row's fids."""
        for key in keys:
            fids, lengths = rows.feature(list(names).index(key))
            values = self._store.counters(key, fids.tolist())  # (fids, 1 + T)
            rows = rows.with_dense(_row_means(values, lengths, self._store.no_counter))
        return rows

    def _score(self, group: Sequence[_Features]) -> list[Ranking]:
        """Return the rankings of several requests, scored as one batch."""
        state = self._replica.state
        counts = np.array([len(one.candidates) for one in group], np.int64)
        shared = PackedRows.concat([one.shared for one in group]).columns(self._shared_names, self._shared_dense, repeats=counts)
        candidates = PackedRows.concat([one.candidates for one in group]).columns(self._store.item_layout.names, self._candidate_dense)
        features = FeatureColumns(shared.num_rows, {**shared.sparse, **candidates.sparse}, {**shared.dense, **candidates.dense})
        scores = state.predict(make_batch(features, self._schema))  # (B, T)
        if not np.isfinite(scores).all():
            raise RuntimeError(f"model {state.version} gives probabilities that are not finite")
        bounds = np.cumsum(counts)[:-1]
        return [Ranking(part, state.version) for part in np.split(scores, bounds)]

    def _impression(self, request: RankInput, features: _Features, ranking: Ranking) -> Impression:
        return Impression(
            request.request_id,
            request.time_ms,
            request.user_id,
            request.item_ids,
            features.shared.columns(self._shared_names, self._shared_dense),
            features.candidates.columns(self._store.item_layout.names, self._candidate_dense),
            ranking.scores,
            self._schema.tasks,
            ranking.model_version,
        )


def _row_means(values: FloatArray, lengths: np.ndarray[tuple[int], np.dtype[np.int32]], absent: FloatArray) -> FloatArray:
    """Return the mean of each row's values, float32 (R, V); `absent` (V,) for a row without any. `values` (n, V) lie row by row."""
    if len(values) == len(lengths) and (lengths == 1).all():
        return values
    means = np.tile(absent, (len(lengths), 1))
    filled = lengths > 0
    starts = (np.cumsum(lengths) - lengths)[filled]
    if len(starts):
        means[filled] = np.add.reduceat(values, starts, axis=0) / lengths[filled][:, None]
    return means
