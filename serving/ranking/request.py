"""Checked input of the ranker, from a Rank request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monolith_py.config import ServingConfig
from monolith_py.data.columns import Int64Array
from monolith_py.data.packed_rows import PackedRow
from monolith_py.errors import WireError
from monolith_py.io.codec import columns_from_proto
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.order import FeatureOrder


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
    if message.time_ms < 0:
        raise WireError(f"time_ms must be >= 0, got {message.time_ms}")
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
        message.time_ms or now_ms,
        message.user_id,
        np.array(message.item_ids, np.int64),
        order.pack(context),
    )
