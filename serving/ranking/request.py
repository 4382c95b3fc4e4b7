"""Checked input of the ranker, from a Rank request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monolith_py.config import ServingConfig
from monolith_py.data.columns import Int64Array
from monolith_py.data.packed_rows import PackedRow
from monolith_py.errors import WireError
from monolith_py.io.codec import columns_from_proto
from monolith_py.observe.metrics import RANK_TIMES_REPLACED
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.order import FeatureOrder

# The id is the key of the impression and of its actions, in the log, in Kv and in log lines.
MAX_REQUEST_ID_BYTES = 128
# March 1973 in milliseconds, the year 5138 in seconds: a smaller time is in another unit.
MIN_TIME_MS = 100_000_000_000


@dataclass(frozen=True)
class RankInput:
    """One request: n candidates for one user."""

    request_id: str
    time_ms: int
    user_id: int
    item_ids: Int64Array  # (n,)
    context: PackedRow


def parse_request(message: pb.RankRequest, order: FeatureOrder, config: ServingConfig, *, request_id: str, now_ms: int) -> RankInput:
    """Return the request of `message`; `request_id` and `now_ms` fill empty fields, `order` is the order of context features.

    Raises:
        WireError: a field breaks its rule.
    """
    num_candidates = len(message.item_ids)
    if not 1 <= num_candidates <= config.max_candidates:
        raise WireError(f"item_ids must have 1 to {config.max_candidates} candidates, got {num_candidates}")
    _check_request_id(message.request_id)
    time_ms = _event_time_ms(message.time_ms, config, now_ms)
    for sparse in message.context.sparse:
        if len(sparse.fids) > config.max_fids:
            raise WireError(f"context.{sparse.name}.fids must have at most {config.max_fids} fids, got {len(sparse.fids)}")
    context = columns_from_proto(message.context, 1, "context")
    dims = {feature.name: feature.dim for feature in order.dense}
    unknown = sorted((context.sparse.keys() - set(order.names)) | (context.dense.keys() - dims.keys()))
    if unknown:
        raise WireError(f"context must hold features among {sorted({*order.names, *dims})}, got {unknown}")
    for name, values in context.dense.items():
        if values.shape[1] != dims[name]:
            raise WireError(f"context.{name}.values must have {dims[name]} values, got {values.shape[1]}")
    return RankInput(
        message.request_id or request_id,
        time_ms,
        message.user_id,
        np.array(message.item_ids, np.int64),
        order.pack(context),
    )


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


def _event_time_ms(time_ms: int, config: ServingConfig, now_ms: int) -> int:
    """Return the event time of a request: its own, or `now_ms` if it has none or one that is too far ahead.

    Raises:
        WireError: the time cannot be in milliseconds.
    """
    if time_ms and time_ms < MIN_TIME_MS:
        raise WireError(f"time_ms must be 0 or >= {MIN_TIME_MS} (milliseconds since 1970), got {time_ms}")
    if time_ms > now_ms + config.max_clock_skew_s * 1000:
        RANK_TIMES_REPLACED.inc()
        return now_ms
    return time_ms or now_ms
