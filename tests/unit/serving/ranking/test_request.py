"""Rank requests: a broken rule is refused with field, value and rule."""

from __future__ import annotations

import pytest

from monolith_py.config import CounterConfig, DenseFeatureConfig, FeatureConfig, ServingConfig
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.observe.metrics import RANK_TIMES_REPLACED
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.order import RequestOrder
from monolith_serving.ranking.request import MAX_CONTRIBUTIONS, RequestParser

SCHEMA = Schema(
    (FeatureConfig(name="tab", source="context"), FeatureConfig(name="user_id", source="user_id")),
    (DenseFeatureConfig(name="hour", source="context", dim=2),),
    ("click",),
)
ORDER = RequestOrder.of(SCHEMA, CounterConfig())


NOW_MS = 1_700_000_000_000


def parse(message: pb.RankRequest):
    config = ServingConfig(max_candidates=3, max_fids=4)
    return RequestParser(ORDER, SCHEMA.tasks, config, EventTimeRule(60_000)).parse(message, request_id="made", now_ms=NOW_MS)


def request(**changes) -> pb.RankRequest:
    return pb.RankRequest(**({"request_id": "r", "user_id": 1, "item_ids": [5, 5], "time_ms": NOW_MS - 7} | changes))


def test_a_valid_request_keeps_its_fields():
    message = request()
    message.context.sparse.add(name="tab", fids=[3, 4], lengths=[2])
    message.context.dense.add(name="hour", values=[0.5, 1.5])
    parsed = parse(message)
    assert (parsed.request_id, parsed.time_ms, parsed.user_id, parsed.item_ids.tolist()) == ("r", NOW_MS - 7, 1, [5, 5])
    assert (parsed.context.fids.tolist(), parsed.context.lengths.tolist(), parsed.context.dense.tolist()) == ([3, 4], [2], [0.5, 1.5])


def test_an_absent_id_and_time_are_filled_in():
    parsed = parse(request(request_id="", time_ms=0))
    assert (parsed.request_id, parsed.time_ms) == ("made", NOW_MS)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"item_ids": []}, "item_ids must have 1 to 3 candidates, got 0"),
        ({"item_ids": [1, 2, 3, 4]}, "item_ids must have 1 to 3 candidates, got 4"),
        ({"time_ms": -1}, "time_ms must be 0 or >= 100000000000 .*, got -1"),
        ({"time_ms": 1_700_000_000}, "time_ms must be 0 or >= 100000000000 .*, got 1700000000"),
        ({"request_id": "r" * 129}, "request_id must have at most 128 bytes, got 129"),
        ({"request_id": "\u00e9" * 65}, "request_id must have at most 128 bytes, got 130"),
        ({"request_id": "a\0b"}, r"request_id must be printable, got 'a\\x00b'"),
        ({"request_id": "a\nb"}, r"request_id must be printable, got 'a\\nb'"),
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
        (None, {"name": "hour", "values": [1.0]}, "context.hour.values must have 2 values a row, got 1"),
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


def test_a_request_id_may_have_128_bytes_of_any_script():
    assert parse(request(request_id="\u00e9" * 64)).request_id == "\u00e9" * 64


@pytest.mark.parametrize(
    ("time_ms", "expected"),
    [
        (NOW_MS - 10**10, NOW_MS - 10**10),
        (NOW_MS + 60_000, NOW_MS + 60_000),
        (NOW_MS + 60_001, NOW_MS),
        (NOW_MS + 8 * 3_600_000, NOW_MS),
        (2**63 - 1, NOW_MS),
    ],
)
def test_an_event_time_too_far_ahead_of_the_clock_becomes_its_time(time_ms, expected):
    """One request stamped 8 h ahead made the clicks of all others too late."""
    before = RANK_TIMES_REPLACED._value.get()
    assert parse(request(time_ms=time_ms)).time_ms == expected
    assert RANK_TIMES_REPLACED._value.get() - before == (time_ms != expected)


def test_the_fids_of_a_context_feature_are_bounded():
    message = request()
    message.context.sparse.add(name="tab", fids=[1] * 4, lengths=[4])
    assert parse(message).context.lengths.tolist() == [4]
    message.context.sparse[0].fids.append(1)
    with pytest.raises(WireError, match=r"context\.tab\.fids must have at most 4 fids a row, got 5"):
        parse(message)


def test_the_size_of_an_explanation_is_bounded():
    features = tuple(FeatureConfig(name=f"f{number}", source="context") for number in range(500))
    schema = Schema(features, (), tuple(f"t{number}" for number in range(10)))
    parser = RequestParser(RequestOrder.of(schema, CounterConfig()), schema.tasks, ServingConfig(), EventTimeRule(60_000))
    message = request(item_ids=range(101), explain=True)
    with pytest.raises(WireError, match=f"at most {MAX_CONTRIBUTIONS} .*, got 505000: set top_k or task_names"):
        parser.parse(message, request_id="made", now_ms=NOW_MS)
    for changes in ({"top_k": 100}, {"task_names": ["t3"]}):
        assert parser.parse(request(item_ids=range(101), explain=True, **changes), request_id="made", now_ms=NOW_MS).choice.explain
