"""The gRPC service `monolith.v1.Ranking`; `StatusInterceptor` turns its exceptions into status codes."""

from __future__ import annotations

import uuid
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.data.events import EventTimeRule
from monolith_py.observe.metrics import IMPRESSIONS_WITHHELD
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.ranking.answered import on_end, time_limit_s
from monolith_serving.ranking.ranker import Ranker, Ranking
from monolith_serving.ranking.request import RankInput, parse_request
from monolith_serving.replica.replica import Replica

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Ranking"].full_name


class RankingService(pb_grpc.RankingServicer):  # type: ignore[misc]  # generated code has no types
    """Answers Rank from many threads."""

    def __init__(
        self, ranker: Ranker, replica: Replica, task_names: tuple[str, ...], config: ServingConfig, clock: Clock, time_rule: EventTimeRule
    ) -> None:
        self._ranker, self._replica, self._task_names = ranker, replica, task_names
        self._config, self._clock, self._time_rule = config, clock, time_rule

    def Rank(self, message: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802 (the name in the proto)
        """Return the scores of the request's candidates.

        Raises:
            WireError: a field of the request breaks its rule.
            CancelledError: the caller has left.
            NotReady, KvError, Overloaded, TimeoutError, ModelNotFinite: see `Ranker.rank`.
        """
        deadline_s = self._clock.monotonic_s() + time_limit_s(context, self._config.default_deadline_s)
        own_id, now_ms = uuid.uuid4().hex, self._clock.now_ms()
        request = parse_request(message, self._ranker.context_order, self._config, self._time_rule, request_id=own_id, now_ms=now_ms)
        if not context.is_active():
            raise CancelledError
        ranking = self._ranker.rank(request, deadline_s, context.is_active)
        if message.HasField("log_impression") and not message.log_impression:
            IMPRESSIONS_WITHHELD.labels(reason="request").inc()
        else:
            on_end(context, partial(self._log_if_answered, request, ranking))
        return pb.RankResponse(
            request_id=request.request_id,
            scores=ranking.scores.ravel().tolist(),
            task_names=self._task_names,
            model_version=ranking.model_version,
            staleness_ms=self._replica.staleness_ms(),
        )

    def _log_if_answered(self, request: RankInput, ranking: Ranking, is_answered: bool) -> None:
        if is_answered:
            self._ranker.log(request, ranking)
        else:
            IMPRESSIONS_WITHHELD.labels(reason="unanswered").inc()
