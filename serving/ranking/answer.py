"""Answer to a request: the candidates and tasks that it asks for, by a model that it accepts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import ConditionFailed
from monolith_serving.ranking.ranker import Ranking
from monolith_serving.ranking.request import AnswerChoice, RankInput


def check_conditions(choice: AnswerChoice, version: str, staleness_ms: int) -> None:
    """Check that a model of `version` and age may answer a request.

    Raises:
        ConditionFailed: the request asks for another version or a newer model.
    """
    if choice.model_version not in ("", version, version.partition(".")[0]):
        raise ConditionFailed(f"model_version must be the one served, {version}, got {choice.model_version!r}")
    if choice.max_staleness_ms and staleness_ms > choice.max_staleness_ms:
        rule = f"must be at least the staleness of the replica, {staleness_ms} ms"
        raise ConditionFailed(f"max_staleness_ms {rule}, got {choice.max_staleness_ms}")


def best(scores: FloatArray, top_k: int) -> Int64Array:
    """Return the positions of the `top_k` greatest of `scores` float32 (n,), greatest first; equal ones in their order.

    >>> best(np.array([0.5, 0.9, 0.5], np.float32), 2).tolist()
    [1, 0]
    """
    return np.argsort(-scores, kind="stable")[:top_k].astype(np.int64)


def cut(request: RankInput, ranking: Ranking, positions: Int64Array) -> tuple[RankInput, Ranking]:
    """Return request and ranking of the candidates at `positions` (k,) alone, in that order."""
    features = replace(ranking.features, candidates=ranking.features.candidates.rows(positions))
    cut_request = replace(request, item_ids=request.item_ids[positions], candidates=None)
    return cut_request, replace(ranking, scores=ranking.scores[positions], features=features)
