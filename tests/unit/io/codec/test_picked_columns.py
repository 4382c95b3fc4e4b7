"""Columns picked from impressions equal those of the decoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.errors import WireError
from monolith_py.io.codec import decode_impression, encode_impression
from monolith_py.io.codec.impression_view import ImpressionView, parse_impression
from monolith_py.io.codec.picked_columns import pick_features
from monolith_py.io.codec.wire_patterns import MAX_PATTERNS, WirePatterns

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
    candidates, expected = [], []
    for impression, rows in picks:
        rows_there = [row % len(impression.item_ids) for row in rows]
        value = encode_impression(impression)
        view = ImpressionView(value)
        candidates += [(view, row) for row in rows_there]
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
    assert_equal(pick_features(candidates, WirePatterns(WIDTHS), wanted), FeatureColumns.concat(expected))


@given(st.lists(impressions(), min_size=1, max_size=6))
def test_only_one_candidate_with_one_fid_a_feature_is_flat(found: list[Impression]) -> None:
    patterns = WirePatterns(WIDTHS)
    for impression in found:
        value = encode_impression(impression)
        flat = parse_impression(value, patterns).flat_columns(patterns)
        parts = (impression.shared, impression.candidates)
        is_flat = len(impression.item_ids) == 1 and not any(
            part.dense or any((column.lengths != 1).any() for column in part.sparse.values()) for part in parts
        )
        assert (flat is not None) == is_flat
        if flat is not None:
            decoded = decode_impression(value)
            columns = {**decoded.shared.sparse, **decoded.candidates.sparse}
            assert dict(zip(flat.names, np.frombuffer(flat.fids, "<i8").tolist(), strict=True)) == {
                name: column.fids[0] for name, column in columns.items()
            }


def flat_impression(name: str) -> ImpressionView:
    column = FeatureColumns(1, {name: SparseColumn(np.array([5]), np.ones(1, np.int32))})
    value = encode_impression(Impression("r", 1, 1, np.array([1]), FeatureColumns(1), column, np.zeros((1, 0), np.float32)))
    return ImpressionView(value)


def test_a_pattern_is_forgotten_when_many_others_were_seen() -> None:
    patterns = WirePatterns({})
    first = flat_impression("f0")
    assert patterns.learn(first.message)
    for index in range(1, MAX_PATTERNS):
        patterns.learn(flat_impression(f"f{index}").message)
    assert patterns.flatten(first.message) is not None
    for index in range(MAX_PATTERNS):
        patterns.learn(flat_impression(f"g{index}").message)
    assert patterns.flatten(first.message) is None


def test_an_impression_that_is_refused_teaches_no_pattern() -> None:
    patterns = WirePatterns({})
    both = FeatureColumns(1, {"f": SparseColumn(np.array([5]), np.ones(1, np.int32))})
    value = encode_impression(Impression("r", 1, 1, np.array([1]), both, both, np.zeros((1, 0), np.float32)))
    for _ in range(2):
        with pytest.raises(WireError, match=r"must differ from those of impression.shared, got \['f'\] in both"):
            parse_impression(value, patterns)


def assert_equal(got: FeatureColumns, expected: FeatureColumns) -> None:
    assert got.num_rows == expected.num_rows
    assert got.sparse.keys() == expected.sparse.keys() and got.dense.keys() == expected.dense.keys()
    for name, column in expected.sparse.items():
        np.testing.assert_array_equal(got.sparse[name].fids, column.fids)
        np.testing.assert_array_equal(got.sparse[name].lengths, column.lengths)
        assert got.sparse[name].fids.dtype == np.int64 and got.sparse[name].lengths.dtype == np.int32
    for name, values in expected.dense.items():
        np.testing.assert_array_equal(got.dense[name], values)
