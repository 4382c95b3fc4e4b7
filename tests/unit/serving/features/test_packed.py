"""Packed features: what a batch is made of equals what feature columns say, row for row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config import DenseFeatureConfig, FeatureConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_serving.features.packed import FeatureOrder, PackedRow, PackedRows

DENSE = (DenseFeatureConfig(name="age", source="user", dim=1), DenseFeatureConfig(name="taste", source="user", dim=2))
SCHEMA = Schema(
    (
        FeatureConfig(name="user_id", source="user_id"),
        FeatureConfig(name="city", source="user"),
        FeatureConfig(name="item_id", source="item_id"),
        FeatureConfig(name="tags", source="user"),
    ),
    (*DENSE, DenseFeatureConfig(name="price", source="item", dim=1)),
    ("click",),
)
LAYOUT = FeatureOrder.of(SCHEMA, "user", "user_id")


def column(*fids: int) -> SparseColumn:
    return SparseColumn(np.array(fids, np.int64), np.array([len(fids)], np.int32))


def test_a_layout_holds_its_own_source_and_id_features():
    assert LAYOUT.names == ("user_id", "city", "tags")
    assert [dense.name for dense in LAYOUT.dense] == ["age", "taste"]


def test_packing_leaves_out_other_features_and_fills_absent_ones():
    columns = FeatureColumns(1, {"tags": column(5, 6), "unknown": column(9)}, {"taste": np.array([[1, 2]], np.float32)})
    row = LAYOUT.pack(columns, entity_id=7)
    assert (row.fids.tolist(), row.lengths.tolist(), row.dense.tolist()) == ([7, 5, 6], [1, 0, 2], [0, 1, 2])


def test_an_unknown_user_has_its_id_and_nothing_else():
    row = LAYOUT.pack(None, entity_id=-3)
    assert (row.fids.tolist(), row.lengths.tolist(), row.dense.tolist()) == ([-3], [1, 0, 0], [0, 0, 0])


def test_a_dense_column_of_another_width_is_refused():
    with pytest.raises(WireError, match=r"features.taste must have 2 values, got 3"):
        LAYOUT.pack(FeatureColumns(1, {}, {"taste": np.zeros((1, 3), np.float32)}), 1)


bags = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
rows_of_bags = st.lists(st.tuples(bags, bags, st.floats(-1, 1, width=32), st.integers(0, 3)), min_size=1, max_size=6)


def packed(rows) -> list[PackedRow]:
    return [
        PackedRow(np.array(a + b, np.int64), np.array([len(a), len(b)], np.int32), np.array([value], np.float32)) for a, b, value, _ in rows
    ]


@given(rows_of_bags)
def test_columns_hold_every_row_as_often_as_it_is_repeated(rows):
    repeats = np.array([row[3] for row in rows], np.int64)
    dense = DenseFeatureConfig(name="d", source="user", dim=1)
    columns = PackedRows.of(packed(rows)).columns(["a", "b"], [dense], repeats)
    expected = [row for row in rows for _ in range(row[3])]
    assert columns.num_rows == len(expected)
    for index, name in enumerate("ab"):
        assert columns.sparse[name].fids.tolist() == [fid for row in expected for fid in row[index]]
        assert columns.sparse[name].lengths.tolist() == [len(row[index]) for row in expected]
    assert columns.dense["d"].tolist() == [[row[2]] for row in expected]


@given(rows_of_bags)
def test_one_feature_of_packed_rows_is_its_bags_in_row_order(rows):
    together = PackedRows.concat([PackedRows.of([row]) for row in packed(rows)])
    for index in range(2):
        fids, lengths = together.feature(index)
        assert fids.tolist() == [fid for row in rows for fid in row[index]]
        assert lengths.tolist() == [len(row[index]) for row in rows]


def test_two_rows_stand_beside_each_other():
    left = PackedRows.of([PackedRow(np.array([1], np.int64), np.array([1], np.int32), np.array([0.5], np.float32))])
    right = PackedRows.of([PackedRow(np.array([2, 3], np.int64), np.array([0, 2], np.int32), np.empty(0, np.float32))])
    both = left.beside(right).with_dense(np.array([[9]], np.float32))
    assert (both.fids.tolist(), both.lengths.tolist(), both.dense.tolist()) == ([1, 2, 3], [[1, 0, 2]], [[0.5, 9]])
