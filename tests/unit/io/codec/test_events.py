"""Impressions, actions, stored features and dead letters on the wire."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, DeadLetter, Impression
from monolith_py.errors import WireError
from monolith_py.io import codec
from monolith_py.pb import example_pb2 as pb

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
TIME_MS = st.integers(1, 2**62)
FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def columns(draw: st.DrawFn, num_rows: int) -> FeatureColumns:
    names = draw(st.lists(TEXT, max_size=4, unique=True))
    cut = draw(st.integers(0, len(names)))
    sparse, dense = {}, {}
    for name in names[:cut]:
        lengths = np.array(draw(st.lists(st.integers(0, 3), min_size=num_rows, max_size=num_rows)), np.int32)
        fids = draw(st.lists(INT64, min_size=int(lengths.sum()), max_size=int(lengths.sum())))
        sparse[name] = SparseColumn(np.array(fids, np.int64), lengths)
    for name in names[cut:]:
        width = draw(st.integers(0, 3))
        values = draw(st.lists(FLOAT, min_size=num_rows * width, max_size=num_rows * width))
        dense[name] = np.array(values, np.float32).reshape(num_rows, width)
    return FeatureColumns(num_rows, sparse, dense)


@st.composite
def impressions(draw: st.DrawFn) -> Impression:
    num_candidates = draw(st.integers(1, 5))
    task_names = tuple(draw(st.lists(TEXT, max_size=3, unique=True)))
    size = num_candidates * len(task_names)
    return Impression(
        request_id=draw(TEXT),
        time_ms=draw(TIME_MS),
        user_id=draw(INT64),
        item_ids=np.array(draw(st.lists(INT64, min_size=num_candidates, max_size=num_candidates)), np.int64),
        shared=draw(columns(1)),
        candidates=draw(columns(num_candidates)),
        scores=np.array(draw(st.lists(FLOAT, min_size=size, max_size=size)), np.float32).reshape(num_candidates, len(task_names)),
        task_names=task_names,
        model_version=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    )


def assert_equal(left: Any, right: Any) -> None:
    """Compare dataclasses of arrays field by field: values, dtypes and shapes."""
    assert type(left) is type(right)
    if dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_equal(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for name in left:
            assert_equal(left[name], right[name])
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert np.array_equal(left, right)
    else:
        assert left == right


def impression(**changes: Any) -> pb.Impression:
    """Return a good impression of two candidates and one task as a message, with `changes`."""
    fields: dict[str, Any] = {
        "request_id": "r1",
        "time_ms": 1_000,
        "user_id": 7,
        "item_ids": [1, 2],
        "shared": {"sparse": [{"name": "user", "fids": [7]}]},
        "candidates": {"sparse": [{"name": "item", "fids": [1, 2]}], "dense": [{"name": "age", "values": [0.5, 1.5]}]},
        "scores": [0.25, 0.75],
        "task_names": ["click"],
    }
    return pb.Impression(**(fields | changes))


@given(impressions())
def test_an_impression_is_decoded_unchanged(sent: Impression) -> None:
    assert_equal(codec.decode_impression(codec.encode_impression(sent)), sent)


@given(st.builds(Action, TEXT, INT64, TEXT, TIME_MS, FLOAT))
def test_an_action_is_decoded_unchanged(sent: Action) -> None:
    assert codec.decode_action(codec.encode_action(sent)) == sent


@given(columns(1))
def test_stored_features_are_decoded_unchanged(sent: FeatureColumns) -> None:
    assert_equal(codec.decode_features(codec.encode_features(sent)), sent)


@given(columns(3))
def test_columns_of_several_rows_are_decoded_unchanged(sent: FeatureColumns) -> None:
    assert_equal(codec.columns_from_proto(codec.columns_to_proto(sent), 3), sent)


def test_a_dead_letter_is_decoded_unchanged() -> None:
    letter = DeadLetter("actions", 3, 17, b"\xff\x00", "action.kind must not be empty", 5, 2_000_000)
    assert codec.decode_dead_letter(codec.encode_dead_letter(letter)) == letter


def test_an_action_without_a_value_has_the_value_1() -> None:
    """proto3 clients in other languages set only what they name: newcomer.md, P5."""
    message = pb.Action(request_id="r", item_id=1, kind="click", time_ms=5)
    assert codec.decode_action(message.SerializeToString()).value == 1.0
    message.value = 0.0
    assert codec.decode_action(message.SerializeToString()).value == 0.0


@pytest.mark.parametrize("field", ["request_id", "kind"])
def test_a_text_beyond_512_characters_is_refused_without_being_quoted(field: str) -> None:
    texts = {"request_id": "r", "kind": "click"} | {field: "x" * 513}
    value = pb.Action(item_id=1, time_ms=5, **texts).SerializeToString()
    with pytest.raises(WireError, match=rf"^action\.{field} must have at most 512 characters, got 513$"):
        codec.decode_action(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_id": ""}, r"impression.request_id must not be empty, got ''"),
        ({"time_ms": 0}, r"impression.time_ms must be > 0, got 0"),
        ({"time_ms": -5}, r"impression.time_ms must be > 0, got -5"),
        ({"item_ids": []}, r"impression.item_ids must have at least one candidate, got 0"),
        ({"scores": [0.5]}, r"impression.scores must have 2 candidates x 1 tasks, got 1 values"),
        ({"scores": [0.5, float("nan")]}, r"impression.scores must be finite, got nan"),
        ({"task_names": ["a", "a"], "scores": [0.0] * 4}, r"impression.task_names must be unique and not empty, got \['a', 'a'\]"),
        ({"task_names": [""]}, r"impression.task_names must be unique and not empty"),
        ({"shared": {"sparse": [{"name": "", "fids": [1]}]}}, r"impression.shared.sparse.name must not be empty, got ''"),
        (
            {"shared": {"sparse": [{"name": "u", "fids": [1, 2]}]}},
            r"impression.shared.u.fids must have one fid for each of 1 rows .* got 2",
        ),
        ({"shared": {"dense": [{"name": "u", "values": [float("inf")]}]}}, r"impression.shared.u.values must be finite, got inf"),
        (
            {"shared": {"sparse": [{"name": "u", "fids": [1]}], "dense": [{"name": "u", "values": [1.0]}]}},
            r"impression.shared.dense.name must be unique, got 'u' twice",
        ),
        (
            {"candidates": {"sparse": [{"name": "i", "fids": [1, 2, 3], "lengths": [1, 1, 1]}]}},
            r"impression.candidates.i.lengths must have 2 rows, got 3",
        ),
        (
            {"candidates": {"sparse": [{"name": "i", "fids": [1, 2, 3], "lengths": [1, 1]}]}},
            r"impression.candidates.i.lengths must add up to 3 fids, got 2",
        ),
        (
            {"candidates": {"sparse": [{"name": "i", "fids": [1], "lengths": [2**32 - 1, 2]}]}},
            r"impression.candidates.i.lengths must add up to 1 fids, got 4294967297",
        ),
        (
            {"candidates": {"dense": [{"name": "d", "values": [1.0] * 3}]}},
            r"impression.candidates.d.values must be a multiple of 2 rows, got 3",
        ),
    ],
)
def test_a_broken_impression_is_refused_with_field_value_and_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WireError, match=message):
        codec.decode_impression(impression(**changes).SerializeToString())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_id": ""}, r"action.request_id must not be empty, got ''"),
        ({"kind": ""}, r"action.kind must not be empty, got ''"),
        ({"time_ms": 0}, r"action.time_ms must be > 0, got 0"),
        ({"value": float("nan")}, r"action.value must be finite, got nan"),
    ],
)
def test_a_broken_action_is_refused_with_field_value_and_rule(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"request_id": "r1", "item_id": 1, "kind": "click", "time_ms": 5, "value": 1.0}
    with pytest.raises(WireError, match=message):
        codec.decode_action(pb.Action(**(fields | changes)).SerializeToString())


def test_bytes_that_are_no_message_are_refused_with_their_length() -> None:
    with pytest.raises(WireError, match=r"Action must be a monolith.v1.Action message, got 3 bytes"):
        codec.decode_action(b"\xff\xff\xff")


DECODERS: tuple[Callable[[bytes], Any], ...] = (
    codec.decode_impression,
    codec.decode_action,
    codec.decode_features,
    codec.decode_dead_letter,
)


def refuse_or_decode(value: bytes) -> None:
    for decode in DECODERS:
        with suppress(WireError):
            decode(value)


@given(st.binary(max_size=200))
@example(b"")
def test_random_bytes_raise_nothing_but_wire_errors(value: bytes) -> None:
    refuse_or_decode(value)


@given(impressions(), st.data())
def test_damaged_impressions_raise_nothing_but_wire_errors(sent: Impression, data: st.DataObject) -> None:
    value = bytearray(codec.encode_impression(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    refuse_or_decode(bytes(value[: data.draw(st.integers(0, len(value)))]))
    refuse_or_decode(bytes(value))
