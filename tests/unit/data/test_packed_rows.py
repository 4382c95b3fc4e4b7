"""Packed rows against lists of bags: repeated, reordered and joined rows hold the bags of their source rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config import DenseFeatureConfig
from monolith_py.data.packed_rows import PackedRow, PackedRows

DENSE = DenseFeatureConfig(name="d", source="user", dim=1)
bags = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
rows_of_bags = st.lists(st.tuples(bags, bags, st.floats(-1, 1, width=32), st.integers(0, 3)), min_size=1, max_size=6)


def packed(rows) -> list[PackedRow]:
    return [
        PackedRow(np.array(a + b, np.int64), np.array([len(a), len(b)], np.int32), np.array([value], np.float32)) for a, b, value, _ in rows
    ]


def bags_of(rows: PackedRows) -> list[list[list[int]]]:
    """Return the bags of each feature of each row."""
    fids, lengths = rows.by_feature()
    by_feature = lengths.reshape(-1, len(rows))
    cut = [bag.tolist() for bag in np.split(fids, np.cumsum(lengths)[:-1])] if lengths.size else []
    return [[cut[feature * len(rows) + row] for feature in range(len(by_feature))] for row in range(len(rows))]


@given(rows_of_bags)
def test_repeated_rows_hold_their_bags_as_often_as_asked(rows):
    repeated = PackedRows.of(packed(rows)).repeat(np.array([row[3] for row in rows], np.int64))
    expected = [row for row in rows for _ in range(row[3])]
    assert len(repeated) == len(expected)
    columns = repeated.columns(["a", "b"], [DENSE])
    assert columns.num_rows == len(expected)
    for index, name in enumerate("ab"):
        assert columns.sparse[name].fids.tolist() == [fid for row in expected for fid in row[index]]
        assert columns.sparse[name].lengths.tolist() == [len(row[index]) for row in expected]
    assert columns.dense["d"].tolist() == [[row[2]] for row in expected]


@given(rows_of_bags)
def test_one_feature_is_its_bags_in_row_order(rows):
    together = PackedRows.concat([PackedRows.of([row]) for row in packed(rows)])
    for index in range(2):
        fids, lengths = together.feature(index)
        assert fids.tolist() == [fid for row in rows for fid in row[index]]
        assert lengths.tolist() == [len(row[index]) for row in rows]


@given(rows_of_bags, st.randoms(use_true_random=False))
def test_rows_repeated_joined_and_reordered_hold_the_bags_of_their_sources(rows, random):
    left = PackedRows.concat([PackedRows.of(packed(rows)), PackedRows.of(packed(rows[:1]))]).repeat(np.full(len(rows) + 1, 2))
    right = PackedRows.of(packed([rows[0]] * len(left)))
    order = random.sample(range(4), 3)
    taken = left.beside(right).take(np.array(order), np.array([1, 0]))
    sources = [row for row in [*rows, rows[0]] for _ in range(2)]
    assert bags_of(taken) == [[[*row[:2], *rows[0][:2]][feature] for feature in order] for row in sources]
    assert taken.dense.tolist() == [[rows[0][2], row[2]] for row in sources]
    assert taken.dense.flags.c_contiguous


def test_two_rows_are_joined_and_get_more_dense_values():
    left = PackedRows.of([PackedRow(np.array([1], np.int64), np.array([1], np.int32), np.array([0.5], np.float32))])
    right = PackedRows.of([PackedRow(np.array([2, 3], np.int64), np.array([0, 2], np.int32), np.empty(0, np.float32))])
    both = left.beside(right).with_dense(np.array([[9]], np.float32))
    assert (bags_of(both), both.dense.tolist()) == ([[[1], [], [2, 3]]], [[0.5, 9]])
