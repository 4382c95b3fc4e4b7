"""Columns are picked from impressions without arrays for each: they are those of the codec's own slow way."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.io.codec import decode_impression, encode_impression
from monolith_py.io.codec.impression_view import parse_impression
from monolith_py.io.codec.picked_columns import flat_features, picked_features
from monolith_py.io.codec.wire_patterns import MAX_PATTERNS, WirePatterns
from monolith_py.pb import example_pb2 as pb

WIDTHS = {"age": 2, "rate": 1}
fids = st.integers(-(2**63), 2**63 - 1)


@st.composite
def columns(draw: st.DrawFn, num_rows: int, names: str, one_each: bool, dense: bool) -> FeatureColumns:
    sparse = {}
    for name in draw(st.lists(st.sampled_from(names), unique=True)):
        lengths = [1] * num_rows if one_each else draw(st.lists(st.integers(0, 3), min_size=num_rows, max_size=num_rows))
        values = draw(st.lists(fids, min_size=sum(lengths), max_size=sum(lengths)))
        sparse[name] = SparseColumn(np.array(values, np.int64), np.array(lengths, np.int32))
    wide = [name for name in WIDTHS if dense and names[0] == "a" and draw(st.booleans())]
    floats = st.floats(-100, 100, width=32)
    values = {
        name: np.array(draw(st.lists(floats, min_size=num_rows * WIDTHS[name], max_size=num_rows * WIDTHS[name])), np.float32)
        for name in wide
    }
    return FeatureColumns(num_rows, sparse, {name: flat.reshape(num_rows, WIDTHS[name]) for name, flat in values.items()})


@st.composite
def impressions(draw: st.DrawFn) -> Impression:
    num_rows, one_each, dense = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())
    return Impression(
        "r",
        1,
        1,
        np.arange(num_rows, dtype=np.int64),
        draw(columns(1, "uvw", one_each, dense)),
        draw(columns(num_rows, "abc", one_each, dense)),
        np.zeros((num_rows, 0), np.float32),
    )


@given(
    picks=st.lists(st.tuples(impressions(), st.lists(st.integers(0, 2), min_size=1, max_size=3)), min_size=1, max_size=4),
    only=st.booleans(),
)
def test_picked_rows_are_those_of_the_decoded_columns(picks: list[tuple[Impression, list[int]]], only: bool) -> None:
    wanted = {"u", "b", "age"} if only else None
    messages = []
    expected = []
    for impression, rows in picks:
        rows_there = [row % len(impression.item_ids) for row in rows]
        value = encode_impression(impression)
        messages.append((pb.Impression.FromString(value), rows_there))
        decoded = decode_impression(value)
        for row in rows_there:
            one = decoded.candidates.slice(row, row + 1)
            sparse, dense = {**decoded.shared.sparse, **one.sparse}, {**decoded.shared.dense, **one.dense}
            expected.append(
                FeatureColumns(
                    1,
                    {name: column for name, column in sparse.items() if wanted is None or name in wanted},
                    {name: values for name, values in dense.items() if wanted is None or name in wanted},
                )
            )
    assert_equal(picked_features(messages, WIDTHS, wanted), FeatureColumns.concat(expected))


@given(st.lists(impressions(), min_size=1, max_size=6))
def test_flat_columns_are_the_picked_ones(found: list[Impression]) -> None:
    layouts = WirePatterns(WIDTHS)
    for impression in found:
        message = parse_impression(encode_impression(impression), layouts).message
        flat = layouts.columns_of(message)
        parts = (message.shared, message.candidates)
        is_flat = len(impression.item_ids) == 1 and not any(
            part.dense or any(column.lengths or len(column.fids) != 1 for column in part.sparse) for part in parts
        )
        assert (flat is not None) == is_flat
        if flat is not None:
            assert_equal(flat_features([flat, flat]), picked_features([(message, [0]), (message, [0])], WIDTHS))


def test_a_layout_is_forgotten_when_many_others_were_seen() -> None:
    layouts = WirePatterns({})

    def message(name: str) -> pb.Impression:
        column = FeatureColumns(1, {name: SparseColumn(np.array([5]), np.ones(1, np.int32))})
        value = encode_impression(Impression("r", 1, 1, np.array([1]), FeatureColumns(1), column, np.zeros((1, 0), np.float32)))
        return parse_impression(value, layouts).message

    first = message("f0")
    for index in range(1, MAX_PATTERNS):
        message(f"f{index}")
    assert layouts.flatten(first) is not None
    for index in range(MAX_PATTERNS):
        message(f"g{index}")
    assert layouts.flatten(first) is None


def assert_equal(got: FeatureColumns, expected: FeatureColumns) -> None:
    assert got.num_rows == expected.num_rows
    assert got.sparse.keys() == expected.sparse.keys() and got.dense.keys() == expected.dense.keys()
    for name, column in expected.sparse.items():
        np.testing.assert_array_equal(got.sparse[name].fids, column.fids)
        np.testing.assert_array_equal(got.sparse[name].lengths, column.lengths)
        assert got.sparse[name].fids.dtype == np.int64 and got.sparse[name].lengths.dtype == np.int32
    for name, values in expected.dense.items():
        np.testing.assert_array_equal(got.dense[name], values)
