"""The gRPC service `monolith.v1.Ranking`; `StatusInterceptor` turns its exceptions into status codes."""

from __future__ import annotations

import uuid
from typing import Any

from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.ranking.request import parse_request
from monolith_serving.replica.replica import Replica

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Ranking"].full_name


class RankingService(pb_grpc.RankingServicer):  # type: ignore[misc]  # generated code has no types
    """Answers Rank from many threads."""

    def __init__(self, ranker: Ranker, replica: Replica, task_names: tuple[str, ...], config: ServingConfig, clock: Clock) -> None:
        self._ranker, self._replica, self._task_names = ranker, replica, task_names
        self._config, self._clock = config, clock

    def Rank(self, message: pb.RankRequest, context: Any) -> pb.RankResponse:  # noqa: N802 (the name in the proto)
        """Return the scores of the request's candidates.

        Raises:
            WireError: a field of the request breaks its rule.
            NotReady, KvError, TimeoutError, ModelNotFinite: see `Ranker.rank`.
        """
        deadline_s = self._clock.monotonic_s() + self._time_limit_s(context)
        request = parse_request(message, self._ranker.context_order, self._config, request_id=uuid.uuid4().hex, now_ms=self._clock.now_ms())
        ranking = self._ranker.rank(request, deadline_s)
        return pb.RankResponse(
            request_id=request.request_id,
            scores=ranking.scores.ravel().tolist(),
            task_names=self._task_names,
            model_version=ranking.model_version,
            staleness_ms=self._replica.staleness_ms(),
        )

    def _time_limit_s(self, context: Any) -> float:
        """Return the seconds left to the caller, the configured default if the caller set no deadline."""
        remaining_s: float | None = context.time_remaining()
        return self._config.default_deadline_s if remaining_s is None else remaining_s
