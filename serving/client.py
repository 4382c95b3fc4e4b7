"""Client of the ranking service, over one gRPC channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from monolith_py.clock import Clock, SystemClock
from monolith_py.data.columns import FloatArray
from monolith_py.errors import RankFailed
from monolith_py.pb import example_pb2, ranking_pb2
from monolith_py.pb import ranking_pb2_grpc as pb_grpc

# Probes on idle connections detect a lost replica and keep the connection open in balancers.
_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

# Pause before another try of a replica that is not ready.
_WAIT_S = 0.2


@dataclass(frozen=True)
class RankResult:
    """Scores of n candidates for T tasks, candidates in the order of the request."""

    request_id: str
    scores: FloatArray  # (n, T) probabilities
    task_names: tuple[str, ...]
    model_version: str
    staleness_ms: int


class RankClient:
    """Client of one replica, or of a balancer in front of several, at `address` (host:port). Safe for threads. Close it, or use `with`."""

    def __init__(self, address: str, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = pb_grpc.RankingStub(self._channel)

    def rank(
        self,
        user_id: int,
        item_ids: Sequence[int],
        *,
        context: Mapping[str, Sequence[int]] | None = None,
        dense_context: Mapping[str, Sequence[float]] | None = None,
        request_id: str = "",
        time_ms: int = 0,
        timeout_s: float = 1.0,
        log_impression: bool = True,
    ) -> RankResult:
        """Return the scores of `item_ids` for a user.

        `context` holds the fids of the request's own sparse features, `dense_context` the values of its dense features, by name.
        Set `log_impression` to False for debugging and monitoring: a logged impression becomes training data.

        Raises:
            RankFailed: the replica refused, or did not answer within `timeout_s`; see `code`.
        """
        message = _message(user_id, item_ids, _columns(context, dense_context), request_id, time_ms, log_impression)
        try:
            return _result(self._stub.Rank(message, timeout=timeout_s))
        except grpc.RpcError as error:
            raise _failure(error) from None

    def rank_when_ready(self, user_id: int, item_ids: Sequence[int], *, wait_s: float, **options: Any) -> RankResult:
        """Return the scores as `rank` does; while the replica cannot be reached or has no model, try again for `wait_s` seconds.

        Raises:
            RankFailed: as `rank`, after the wait.
        """
        until_s = self._clock.monotonic_s() + wait_s
        while True:
            try:
                return self.rank(user_id, item_ids, **options)
            except RankFailed as error:
                if error.code != "UNAVAILABLE" or self._clock.monotonic_s() >= until_s:
                    raise
            self._clock.sleep(_WAIT_S)

    def rank_async(
        self,
        user_id: int,
        item_ids: Sequence[int],
        *,
        context: Mapping[str, Sequence[int]] | None = None,
        dense_context: Mapping[str, Sequence[float]] | None = None,
        request_id: str = "",
        time_ms: int = 0,
        timeout_s: float = 1.0,
        log_impression: bool = True,
    ) -> Future[RankResult]:
        """Return a future of the result of `rank`. Any number of calls may be in progress."""
        message = _message(user_id, item_ids, _columns(context, dense_context), request_id, time_ms, log_impression)
        future: Future[RankResult] = Future()

        def settle(call: Any) -> None:
            try:
                future.set_result(_result(call.result()))
            except grpc.RpcError as error:
                future.set_exception(_failure(error))
            except grpc.FutureCancelledError:
                future.set_exception(RankFailed("CANCELLED", "the client was closed"))

        self._stub.Rank.future(message, timeout=timeout_s).add_done_callback(settle)
        return future

    def close(self) -> None:
        """Close the channel; calls in progress fail with CANCELLED."""
        self._channel.close()

    def __enter__(self) -> RankClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _columns(sparse: Mapping[str, Sequence[int]] | None, dense: Mapping[str, Sequence[float]] | None) -> example_pb2.FeatureColumns:
    """Return one row of features."""
    return example_pb2.FeatureColumns(
        sparse=[example_pb2.SparseColumn(name=name, fids=fids, lengths=[len(fids)]) for name, fids in (sparse or {}).items()],
        dense=[example_pb2.DenseColumn(name=name, values=values) for name, values in (dense or {}).items()],
    )


def _message(
    user_id: int, item_ids: Sequence[int], context: example_pb2.FeatureColumns, request_id: str, time_ms: int, log_impression: bool
) -> ranking_pb2.RankRequest:
    return ranking_pb2.RankRequest(
        request_id=request_id,
        user_id=user_id,
        item_ids=item_ids,
        context=context,
        time_ms=time_ms,
        log_impression=log_impression,
    )


def _result(response: ranking_pb2.RankResponse) -> RankResult:
    scores = np.array(response.scores, np.float32).reshape(-1, len(response.task_names))  # (n, T)
    return RankResult(response.request_id, scores, tuple(response.task_names), response.model_version, response.staleness_ms)


def _failure(error: Any) -> RankFailed:
    return RankFailed(error.code().name, error.details())
