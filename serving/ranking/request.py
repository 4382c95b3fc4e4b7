"""Checked input of the ranker, from a Rank request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monolith_py.config import ServingConfig
from monolith_py.data.columns import FeatureColumns, Int64Array
from monolith_py.data.events import EventTimeRule
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.errors import WireError
from monolith_py.io.codec import columns_from_proto
from monolith_py.observe.metrics import RANK_TIMES_REPLACED
from monolith_py.pb import example_pb2
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.order import FeatureOrder, RequestOrder
from monolith_serving.features.returned import returnable_names

# The id is the key of the impression and of its actions, in the log, in Kv and in log lines.
MAX_REQUEST_ID_BYTES = 128
# March 1973 in milliseconds, the year 5138 in seconds: a smaller time is in another unit.
MIN_TIME_MS = 100_000_000_000
# An explanation of this size takes 2 MB of the 4 MB that gRPC clients accept by default.
MAX_CONTRIBUTIONS = 500_000
_VERSION = re.compile(r"\d{1,20}(\.\d{1,20})?", re.ASCII)


@dataclass(frozen=True)
class AnswerChoice:
    """Wishes of a request about its answer; tasks are indices of the job's tasks."""

    tasks: tuple[int, ...]  # in the order of the answer
    top_k: int = 0  # 0: all candidates, in request order
    rank_by: int = 0  # task that orders the candidates of `top_k`
    model_version: str = ""  # empty: any
    max_staleness_ms: int = 0  # 0: any
    explain: bool = False
    return_features: tuple[str, ...] = ()

    @property
    def has_conditions(self) -> bool:
        """Return whether not every model may answer."""
        return bool(self.model_version or self.max_staleness_ms)


@dataclass(frozen=True)
class RankInput:
    """One request: n candidates for one user."""

    request_id: str
    time_ms: int
    user_id: int
    item_ids: Int64Array  # (n,)
    context: PackedRow
    candidates: PackedRows | None = None  # the request's own features of each candidate, n rows
    choice: AnswerChoice = AnswerChoice(())


class RequestParser:
    """Checks the Rank requests of one job; `order` is the order of the features of a request, `tasks` the job's tasks."""

    def __init__(self, order: RequestOrder, tasks: Sequence[str], config: ServingConfig, time_rule: EventTimeRule) -> None:
        self._order, self._tasks, self._config, self._time_rule = order, tuple(tasks), config, time_rule
        self._all = AnswerChoice(tuple(range(len(self._tasks))))
        self._returnable = returnable_names(order)
        self._num_features = len(self._returnable)

    def parse(self, message: pb.RankRequest, *, request_id: str, now_ms: int) -> RankInput:
        """Return the request of `message`; `request_id` and `now_ms` fill empty fields.

        `now_ms` also replaces an event time that is too far ahead of it, or too old.

        Raises:
            WireError: a field breaks its rule.
        """
        num_candidates, config = len(message.item_ids), self._config
        if not 1 <= num_candidates <= config.max_candidates:
            raise WireError(f"item_ids must have 1 to {config.max_candidates} candidates, got {num_candidates}")
        _check_request_id(message.request_id)
        time_ms = _event_time_ms(message.time_ms, self._earliest_ms(now_ms), now_ms + self._time_rule.max_skew_ms, now_ms)
        context = self._columns(message.context, self._order.context, 1, "context")
        candidates = None
        if message.HasField("candidate_features"):
            columns = self._columns(message.candidate_features, self._order.candidate, num_candidates, "candidate_features")
            candidates = self._order.candidate.pack_rows(columns)
        return RankInput(
            message.request_id or request_id,
            time_ms,
            message.user_id,
            np.array(message.item_ids, np.int64),
            self._order.context.pack(context),
            candidates,
            self._choice(message),
        )

    def _earliest_ms(self, now_ms: int) -> int:
        age_s = self._config.max_request_age_s
        return now_ms - round(age_s * 1000) if age_s else MIN_TIME_MS

    def _columns(self, message: example_pb2.FeatureColumns, order: FeatureOrder, num_rows: int, field: str) -> FeatureColumns:
        """Return the features of `num_rows` rows in a field of the request.

        Raises:
            WireError: a feature is unknown, has too many fids or another width than the schema.
        """
        for sparse in message.sparse:
            most = len(sparse.fids) if num_rows == 1 else max(sparse.lengths, default=1)
            if most > self._config.max_fids:
                raise WireError(f"{field}.{sparse.name}.fids must have at most {self._config.max_fids} fids a row, got {most}")
        columns = columns_from_proto(message, num_rows, field)
        dims = {feature.name: feature.dim for feature in order.dense}
        unknown = sorted((columns.sparse.keys() - set(order.names)) | (columns.dense.keys() - dims.keys()))
        if unknown:
            raise WireError(f"{field} must hold features among {sorted({*order.names, *dims})}, got {unknown}")
        for name, values in columns.dense.items():
            if values.shape[1] != dims[name]:
                raise WireError(f"{field}.{name}.values must have {dims[name]} values a row, got {values.shape[1]}")
        return columns

    def _choice(self, message: pb.RankRequest) -> AnswerChoice:
        """Return the wishes of a request about its answer.

        Raises:
            WireError: a wish cannot be granted by any model of the job.
        """
        names, top_k, rank_by = message.task_names, message.top_k, message.rank_by
        version, max_staleness_ms, explain = message.model_version, message.max_staleness_ms, message.explain
        returned = message.return_features
        if not (names or top_k or rank_by or version or max_staleness_ms or explain or returned):
            return self._all
        if len(set(names)) != len(names) or not set(names) <= set(self._tasks):
            raise WireError(f"task_names must be unique tasks among {list(self._tasks)}, got {_shown(names)}")
        tasks = tuple(self._tasks.index(name) for name in names) or self._all.tasks
        if rank_by and (rank_by not in self._tasks or not top_k):
            raise WireError(f"rank_by must be one of {list(self._tasks)} and come with top_k, got {rank_by[:128]!r} with top_k {top_k}")
        if version and not _VERSION.fullmatch(version):
            raise WireError(f"model_version must be 'generation' or 'generation.seq', got {version[:128]!r}")
        if max_staleness_ms < 0:
            raise WireError(f"max_staleness_ms must be >= 0, got {max_staleness_ms}")
        if explain:
            self._check_size(min(top_k or len(message.item_ids), len(message.item_ids)), len(tasks))
        if len(set(returned)) != len(returned) or not set(returned) <= set(self._returnable):
            raise WireError(f"return_features must be unique features among {self._returnable}, got {_shown(returned)}")
        best_by = self._tasks.index(rank_by) if rank_by else tasks[0]
        return AnswerChoice(tasks, top_k, best_by, version, max_staleness_ms, explain, tuple(returned))

    def _check_size(self, num_candidates: int, num_tasks: int) -> None:
        """Check the size of an explanation.

        Raises:
            WireError: the answer would be too large.
        """
        size = num_candidates * num_tasks * self._num_features
        if size > MAX_CONTRIBUTIONS:
            rule = f"explain must come with at most {MAX_CONTRIBUTIONS} candidates x tasks x features"
            raise WireError(f"{rule}, got {size}: set top_k or task_names")


def _shown(names: Sequence[str]) -> list[str]:
    return [name[:128] for name in names[:8]]


def _check_request_id(request_id: str) -> None:
    """Check that a request id is short and printable; an empty one is valid.

    Raises:
        WireError: it is not.
    """
    num_bytes = len(request_id.encode())
    if num_bytes > MAX_REQUEST_ID_BYTES:
        raise WireError(f"request_id must have at most {MAX_REQUEST_ID_BYTES} bytes, got {num_bytes}")
    if not request_id.isprintable():
        raise WireError(f"request_id must be printable, got {request_id!r}")


def _event_time_ms(time_ms: int, first_ms: int, last_ms: int, now_ms: int) -> int:
    """Return the event time of a request: its own, or `now_ms` if it has none or one outside of [first_ms, last_ms].

    Raises:
        WireError: the time cannot be in milliseconds.
    """
    if time_ms and time_ms < MIN_TIME_MS:
        raise WireError(f"time_ms must be 0 or >= {MIN_TIME_MS} (milliseconds since 1970), got {time_ms}")
    if time_ms and not first_ms <= time_ms <= last_ms:
        RANK_TIMES_REPLACED.inc()
        return now_ms
    return time_ms or now_ms
