"""Client of the ranking service, over one gRPC channel."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypedDict, Unpack

import grpc
import numpy as np
import numpy.typing as npt

from monolith_py.clock import Clock, SystemClock
from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array, SparseColumn
from monolith_py.errors import RankFailed
from monolith_py.pb import example_pb2, ranking_pb2
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.channel import ClientSecurity, open_channel

# Pause before another try of a replica that is not ready.
_WAIT_S = 0.2
_TIMEOUT_S = 1.0


Integers = Sequence[int] | npt.NDArray[np.integer[Any]]
Floats = Sequence[float] | npt.NDArray[np.floating[Any]]


class RankOptions(TypedDict, total=False):
    """Optional arguments of `RankClient.rank` and `rank_async`; features are by name."""

    context: Mapping[str, Integers]  # fids of sparse features of the request itself
    dense_context: Mapping[str, Floats]  # values of dense features of the request itself
    candidate_features: Mapping[str, Sequence[Integers]]  # fids of sparse features of each candidate, (n,) sequences
    dense_candidate_features: Mapping[str, Sequence[Floats] | Floats]  # values of dense features of each candidate, (n, dim)
    top_k: int  # candidates in the answer, best first; 0: all, in request order
    task_names: Sequence[str]  # tasks in the answer; empty: all
    rank_by: str  # task that orders `top_k`; empty: the first in the answer
    model_version: str  # "generation.seq" or "generation"; another one is FAILED_PRECONDITION; empty: any
    max_staleness_ms: int  # an older model is FAILED_PRECONDITION; 0: any
    return_features: Sequence[str]  # features in the answer, as they were read
    explain: bool  # contributions of the features; logs no impression by default
    request_id: str  # empty: a new one
    time_ms: int  # event time; 0: now
    timeout_s: float  # deadline, tries included; 1 second
    log_impression: bool  # a logged impression becomes training data; true without `explain`


@dataclass(frozen=True)
class RankResult:
    """Scores of n candidates for T tasks, in request order or, with `top_k`, best first."""

    request_id: str
    scores: FloatArray  # (n, T) probabilities
    task_names: tuple[str, ...]
    model_version: str
    staleness_ms: int
    candidates: Int64Array | None = None  # (n,) positions in the request, with `top_k`
    event_staleness_ms: int = 0
    feature_names: tuple[str, ...] = ()
    contributions: FloatArray | None = None  # (n, T, features), with `explain`
    shared_features: FeatureColumns | None = None  # one row: those of `return_features` that all candidates share
    candidate_features: FeatureColumns | None = None  # n rows, in the order of `scores`
    features_unread: bool = False  # stored features could not be read in time, and count as not stored


class RankClient:
    """Client of replicas at `addresses` (host:port, or several of them), or of a balancer in front of them. Safe for threads.

    A call that meets a stopping or overloaded replica is tried again, at the next one if there are several, until its deadline.
    Close the client, or use `with`.
    """

    def __init__(self, addresses: str | Sequence[str], *, security: ClientSecurity | None = None, clock: Clock | None = None) -> None:
        """Open the channel; no connection is made yet.

        Raises:
            ConfigError: see `open_channel`.
        """
        self._clock, security = clock or SystemClock(), security or ClientSecurity()
        self._channel = open_channel(addresses, security)
        self._metadata = security.metadata
        self._stub = pb_grpc.RankingStub(self._channel)

    def rank(self, user_id: int, item_ids: Integers, **options: Unpack[RankOptions]) -> RankResult:
        """Return the scores of `item_ids` for a user.

        Set `log_impression` to False for debugging and monitoring: a logged impression becomes training data.

        Raises:
            RankFailed: the replicas refused, or did not answer within `timeout_s`; see `code`.
        """
        message, timeout_s = _message(user_id, item_ids, options), options.get("timeout_s", _TIMEOUT_S)
        try:
            return _result(self._stub.Rank(message, timeout=timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            raise _failure(error) from None

    def rank_when_ready(self, user_id: int, item_ids: Integers, *, wait_s: float, **options: Unpack[RankOptions]) -> RankResult:
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

    def rank_async(self, user_id: int, item_ids: Integers, **options: Unpack[RankOptions]) -> Future[RankResult]:
        """Return a future of the result of `rank`. Any number of calls may be in progress."""
        message, timeout_s = _message(user_id, item_ids, options), options.get("timeout_s", _TIMEOUT_S)
        future: Future[RankResult] = Future()

        def settle(call: Any) -> None:
            try:
                future.set_result(_result(call.result()))
            except grpc.RpcError as error:
                future.set_exception(_failure(error))
            except grpc.FutureCancelledError:
                future.set_exception(RankFailed("CANCELLED", "the client was closed"))
            except Exception as error:  # of an answer in another form, as `rank` raises it: a future must end
                future.set_exception(error)

        self._stub.Rank.future(message, timeout=timeout_s, metadata=self._metadata).add_done_callback(settle)
        return future

    def close(self) -> None:
        """Close the channel; calls in progress fail with CANCELLED."""
        self._channel.close()

    def __enter__(self) -> RankClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _columns(sparse: Mapping[str, Integers] | None, dense: Mapping[str, Floats] | None) -> example_pb2.FeatureColumns:
    """Return one row of features."""
    return example_pb2.FeatureColumns(
        sparse=[example_pb2.SparseColumn(name=name, fids=_listed(fids), lengths=[len(fids)]) for name, fids in (sparse or {}).items()],
        dense=[example_pb2.DenseColumn(name=name, values=_listed(values)) for name, values in (dense or {}).items()],
    )


def _candidate_columns(
    sparse: Mapping[str, Sequence[Integers]], dense: Mapping[str, Sequence[Floats] | Floats]
) -> example_pb2.FeatureColumns | None:
    """Return one row of features for each candidate; None without any."""
    if not (sparse or dense):
        return None
    bags = {name: [_listed(one) for one in rows] for name, rows in sparse.items()}
    return example_pb2.FeatureColumns(
        sparse=[
            example_pb2.SparseColumn(name=name, fids=[fid for row in rows for fid in row], lengths=[len(row) for row in rows])
            for name, rows in bags.items()
        ],
        dense=[
            example_pb2.DenseColumn(name=name, values=np.asarray(values, np.float32).ravel().tolist()) for name, values in dense.items()
        ],
    )


def _listed(values: Any) -> list[Any]:
    """Return numbers as Python's own: protobuf takes no array."""
    numbers: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return numbers


def _message(user_id: int, item_ids: Integers, options: RankOptions) -> ranking_pb2.RankRequest:
    # Tries of one call have one id, so they make one impression.
    return ranking_pb2.RankRequest(
        request_id=options.get("request_id") or uuid.uuid4().hex,
        user_id=user_id,
        item_ids=_listed(item_ids),
        context=_columns(options.get("context"), options.get("dense_context")),
        time_ms=options.get("time_ms", 0),
        log_impression=options.get("log_impression"),
        top_k=options.get("top_k", 0),
        task_names=options.get("task_names", ()),
        rank_by=options.get("rank_by", ""),
        candidate_features=_candidate_columns(options.get("candidate_features", {}), options.get("dense_candidate_features", {})),
        model_version=options.get("model_version", ""),
        max_staleness_ms=options.get("max_staleness_ms", 0),
        explain=options.get("explain", False),
        return_features=options.get("return_features", ()),
    )


def _result(response: ranking_pb2.RankResponse) -> RankResult:
    tasks, features = tuple(response.task_names), tuple(response.feature_names)
    scores = np.array(response.scores, np.float32).reshape(-1, len(tasks))  # (n, T)
    contributions = np.array(response.contributions, np.float32).reshape(-1, len(tasks), len(features)) if features else None
    positions = np.array(response.candidates, np.int64) if response.candidates else None
    return RankResult(
        response.request_id,
        scores,
        tasks,
        response.model_version,
        response.staleness_ms,
        positions,
        response.event_staleness_ms,
        features,
        contributions,
        _returned(response, "shared_features", 1),
        _returned(response, "candidate_features", len(scores)),
        response.features_unread,
    )


def _returned(response: ranking_pb2.RankResponse, field: str, num_rows: int) -> FeatureColumns | None:
    """Return the features in a field of an answer; None without `return_features`."""
    if not response.HasField(field):
        return None
    message = getattr(response, field)
    sparse = {}
    for column in message.sparse:
        lengths = np.array(column.lengths, np.int32) if column.lengths else np.ones(num_rows, np.int32)
        sparse[column.name] = SparseColumn(np.array(column.fids, np.int64), lengths)
    dense = {column.name: np.array(column.values, np.float32).reshape(num_rows, -1) for column in message.dense}
    return FeatureColumns(num_rows, sparse, dense)


def _failure(error: Any) -> RankFailed:
    return RankFailed(error.code().name, error.details())
