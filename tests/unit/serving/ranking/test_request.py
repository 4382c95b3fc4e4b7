"""Rank requests: a broken rule is refused with field, value and rule."""

from __future__ import annotations

import pytest

from monolith_py.config import DenseFeatureConfig, FeatureConfig, ServingConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.order import FeatureOrder
from monolith_serving.ranking.request import parse_request

SCHEMA = Schema(
    (FeatureConfig(name="tab", source="context"), FeatureConfig(name="user_id", source="user_id")),
    (DenseFeatureConfig(name="hour", source="context", dim=2),),
    ("click",),
)
ORDER = FeatureOrder.of(SCHEMA, "context")


def parse(message: pb.RankRequest):
    return parse_request(message, ORDER, ServingConfig(max_candidates=3), request_id="made", now_ms=99)


def request(**changes) -> pb.RankRequest:
    return pb.RankRequest(**({"request_id": "r", "user_id": 1, "item_ids": [5, 5], "time_ms": 7} | changes))


def test_a_valid_request_keeps_its_fields():
    message = request()
    message.context.sparse.add(name="tab", fids=[3, 4], lengths=[2])
    message.context.dense.add(name="hour", values=[0.5, 1.5])
    parsed = parse(message)
    assert (parsed.request_id, parsed.time_ms, parsed.user_id, parsed.item_ids.tolist()) == ("r", 7, 1, [5, 5])
    assert (parsed.context.fids.tolist(), parsed.context.lengths.tolist(), parsed.context.dense.tolist()) == ([3, 4], [2], [0.5, 1.5])


def test_an_absent_id_and_time_are_filled_in():
    parsed = parse(request(request_id="", time_ms=0))
    assert (parsed.request_id, parsed.time_ms) == ("made", 99)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"item_ids": []}, "item_ids must have 1 to 3 candidates, got 0"),
        ({"item_ids": [1, 2, 3, 4]}, "item_ids must have 1 to 3 candidates, got 4"),
        ({"time_ms": -1}, "time_ms must be >= 0, got -1"),
    ],
)
def test_a_broken_field_is_named(changes, rule):
    with pytest.raises(WireError, match=rule):
        parse(request(**changes))


@pytest.mark.parametrize(
    ("sparse", "dense", "rule"),
    [
        ({"name": "color", "fids": [1]}, None, r"context must hold features among \['hour', 'tab'\], got \['color'\]"),
        ({"name": "user_id", "fids": [1]}, None, r"context must hold features among .* got \['user_id'\]"),
        ({"name": "tab", "fids": [1, 2]}, None, "context.tab.fids must have one fid for each of 1 rows"),
        ({"name": "tab", "fids": [1, 2], "lengths": [1, 1]}, None, "context.tab.lengths must have 1 rows, got 2"),
        (None, {"name": "hour", "values": [1.0]}, "context.hour.values must have 2 values, got 1"),
        (None, {"name": "hour", "values": [1.0, float("nan")]}, "context.hour.values must be finite, got nan"),
    ],
)
def test_a_broken_context_is_named(sparse, dense, rule):
    message = request()
    if sparse:
        message.context.sparse.add(**sparse)
    if dense:
        message.context.dense.add(**dense)
    with pytest.raises(WireError, match=rule):
        parse(message)
