"""The gRPC service `monolith.v1.Ranking`; `StatusInterceptor` turns its exceptions into status codes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from typing import Any

from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.data.columns import Int64Array
from monolith_py.data.events import EventTimeRule
from monolith_py.io.codec import columns_to_proto
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.features.returned import returned_features
from monolith_serving.ranking.answer import best, check_conditions, cut
from monolith_serving.ranking.answered import on_end, time_limit_s
from monolith_serving.ranking.ranker import Ranker, Ranking
from monolith_serving.ranking.request import RankInput, RequestParser
from monolith_serving.replica.replica import Replica

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Ranking"].full_name


class RankingService(pb_grpc.RankingServicer):  # type: ignore[misc]  # generated code has no types
    """Answers Rank from many threads."""

    def __init__(
        self, ranker: Ranker, replica: Replica, task_names: tuple[str, ...], config: ServingConfig, clock: Clock, time_rule: EventTimeRule
    ) -> None:
        self._ranker, self._replica, self._task_names = ranker, replica, tuple(task_names)
        self._config, self._clock = config, clock
        self._parser = RequestParser(ranker.order, task_names, config, time_rule)
        self._feature_names = ranker.feature_names

    def Rank(self, message: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802 (the name in the proto)
        """Return the scores of the request's candidates.

        Raises:
            WireError: a field of the request breaks its rule.
            CancelledError: the caller has left.
            ConditionFailed: the request asks for another version or a newer model.
            NotReady, KvError, Overloaded, TimeoutError, ModelNotFinite: see `Ranker.rank`.
        """
        deadline_s = self._clock.monotonic_s() + time_limit_s(context, self._config.default_deadline_s)
        request = self._parser.parse(message, request_id=uuid.uuid4().hex, now_ms=self._clock.now_ms())
        if not context.is_active():
            raise CancelledError
        choice, positions = request.choice, None
        if choice.has_conditions:
            check_conditions(choice, self._replica.state.version, self._replica.staleness_ms())
        ranking = self._ranker.rank(request, deadline_s, context.is_active)
        if choice.top_k:
            positions = best(ranking.scores[:, choice.rank_by], choice.top_k)
            request, ranking = cut(request, ranking, positions)
        explanation = None
        if choice.explain:
            explanation = self._ranker.explain(ranking, deadline_s, context.is_active)
            ranking = replace(ranking, scores=explanation.scores, model_version=explanation.model_version)
        staleness_ms = self._replica.staleness_ms()
        check_conditions(choice, ranking.model_version, staleness_ms)
        if message.log_impression if message.HasField("log_impression") else not choice.explain:
            on_end(context, partial(self._log_if_answered, request, ranking))
        else:
            IMPRESSIONS_WITHHELD.labels(reason="request").inc()
        response = _response(request, ranking, self._task_names, positions, (staleness_ms, self._replica.event_staleness_ms()))
        if explanation is not None:
            response.feature_names.extend(self._feature_names)
            response.contributions.extend(explanation.contributions[:, choice.tasks].ravel().tolist())
        if choice.return_features:
            shared, own = returned_features(choice.return_features, ranking.features, self._ranker.order)
            response.shared_features.CopyFrom(columns_to_proto(shared))
            response.candidate_features.CopyFrom(columns_to_proto(own))
            response.features_unread = not ranking.features.is_complete
        return response

    def _log_if_answered(self, request: RankInput, ranking: Ranking, is_answered: bool) -> None:
        if is_answered:
            self._ranker.log(request, ranking)
        else:
            IMPRESSIONS_WITHHELD.labels(reason="unanswered").inc()


def _response(
    request: RankInput, ranking: Ranking, task_names: Sequence[str], positions: Int64Array | None, ages_ms: tuple[int, int]
) -> pb.RankResponse:
    """Return the answer of a ranking cut to `positions`; `ages_ms` are the staleness of the model and of its newest event."""
    tasks = request.choice.tasks
    scores = ranking.scores if tasks == tuple(range(len(task_names))) else ranking.scores[:, tasks]
    return pb.RankResponse(
        request_id=request.request_id,
        scores=scores.ravel().tolist(),
        task_names=[task_names[task] for task in tasks],
        model_version=ranking.model_version,
        staleness_ms=ages_ms[0],
        candidates=[] if positions is None else positions.tolist(),
        event_staleness_ms=ages_ms[1],
    )
