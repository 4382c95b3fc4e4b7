"""Model input against plain Python: the features of the schema in order, and a refusal of columns that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from monolith_py.config import DenseFeatureConfig, FeatureConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.model.batch import Batch, make_batch

SPARSE, DENSE = ("zebra", "ant", "bee"), {"price": 3, "age": 1}
SCHEMA = Schema(
    tuple(FeatureConfig(name=name, source="item") for name in SPARSE),
    tuple(DenseFeatureConfig(name=name, source="item", dim=dim) for name, dim in DENSE.items()),
    ("click",),
)
Bags = list[list[int]]


def column_of(bags: Sequence[Sequence[int]]) -> SparseColumn:
    return SparseColumn(np.array([fid for bag in bags for fid in bag], np.int64), np.array([len(bag) for bag in bags], np.int32))


@st.composite
def features(draw: st.DrawFn) -> tuple[int, dict[str, Bags], dict[str, list[list[float]]]]:
    """Rows of any of the schema's features, and of one that it does not have."""
    num_rows = draw(st.integers(0, 5))

    def rows(row: st.SearchStrategy[list[int]] | st.SearchStrategy[list[float]]) -> st.SearchStrategy[list[list]]:
        return st.lists(row, min_size=num_rows, max_size=num_rows)

    bag = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)
    number = st.floats(-8, 8, width=32)
    present = draw(st.permutations([*SPARSE, "stranger", *DENSE]))[: draw(st.integers(0, 6))]
    sparse = {name: draw(rows(bag)) for name in present if name not in DENSE}
    dense = {name: draw(rows(st.lists(number, min_size=DENSE[name], max_size=DENSE[name]))) for name in present if name in DENSE}
    return num_rows, sparse, dense


def columns(num_rows: int, sparse: Mapping[str, Bags], dense: Mapping[str, list[list[float]]]) -> FeatureColumns:
    return FeatureColumns(
        num_rows,
        {name: column_of(bags) for name, bags in sparse.items()},
        {name: np.array(rows, np.float32).reshape(num_rows, DENSE[name]) for name, rows in dense.items()},
    )


@given(features())
def test_a_batch_has_the_bags_of_each_feature_in_the_order_of_the_schema_and_empty_ones_where_it_is_absent(given_rows) -> None:
    num_rows, sparse, dense = given_rows
    batch = make_batch(columns(num_rows, sparse, dense), SCHEMA)
    bags = [bag for name in SPARSE for bag in sparse.get(name, [[]] * num_rows)]
    assert (batch.num_rows, batch.names) == (num_rows, SPARSE)
    assert batch.lengths.tolist() == [len(bag) for bag in bags]
    assert batch.fids.tolist() == [fid for bag in bags for fid in bag]
    assert [batch.fids[a:b].tolist() for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)] == bags
    assert (batch.fids.dtype, batch.lengths.dtype, batch.offsets.dtype) == (np.int64, np.int32, np.int64)


@given(features())
def test_dense_features_stand_side_by_side_and_are_zero_where_they_are_absent(given_rows) -> None:
    num_rows, sparse, dense = given_rows
    batch = make_batch(columns(num_rows, sparse, dense), SCHEMA)
    expected = [
        [value for name, dim in DENSE.items() for value in (dense[name][row] if name in dense else [0.0] * dim)] for row in range(num_rows)
    ]
    assert batch.dense.shape == (num_rows, 4)
    assert batch.dense.dtype == np.float32
    assert batch.dense.tolist() == expected


@given(features())
def test_torchrec_reads_the_same_bags(given_rows) -> None:
    num_rows, sparse, dense = given_rows
    assume(num_rows)  # TorchRec cannot split no rows into features
    batch = make_batch(columns(num_rows, sparse, dense), SCHEMA)
    kjt = batch.sparse()
    assert (kjt.keys(), kjt.stride()) == (list(SPARSE), num_rows)
    for name, jagged in kjt.to_dict().items():
        assert [bag.tolist() for bag in jagged.to_dense()] == sparse.get(name, [[]] * num_rows)
    assert kjt.values().data_ptr() == batch.fids.ctypes.data or not len(batch.fids)


def packed_rows(num_rows: int, sparse: Mapping[str, Bags], dense: Mapping[str, list[list[float]]]) -> PackedRows:
    """The same rows as `columns`, packed one by one in the schema's order."""
    rows = []
    for row in range(num_rows):
        bags = [sparse[name][row] if name in sparse else [] for name in SPARSE]
        values = [value for name, dim in DENSE.items() for value in (dense[name][row] if name in dense else [0.0] * dim)]
        fids = np.array([fid for bag in bags for fid in bag], np.int64)
        rows.append(PackedRow(fids, np.array([len(bag) for bag in bags], np.int32), np.array(values, np.float32)))
    return PackedRows.of(rows)


@given(features())
def test_packed_rows_give_the_batch_of_their_columns(given_rows) -> None:
    assume(given_rows[0])
    left, right = Batch.of(packed_rows(*given_rows), SCHEMA), make_batch(columns(*given_rows), SCHEMA)
    assert (left.num_rows, left.names) == (right.num_rows, right.names)
    for name in ("fids", "lengths", "dense"):
        one, other = getattr(left, name), getattr(right, name)
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
        assert one.flags.c_contiguous


@pytest.mark.parametrize(("column", "name"), [(0, "price"), (2, "price"), (3, "age")])
def test_packed_rows_that_are_not_finite_are_refused_by_name(column: int, name: str) -> None:
    dense = np.zeros(4, np.float32)
    dense[column] = np.inf
    row = PackedRow(np.empty(0, np.int64), np.zeros(3, np.int32), dense)
    with pytest.raises(WireError, match=f"^features.{name} must be finite, got NaN or Inf$"):
        Batch.of(PackedRows.of([row, row]), SCHEMA)


def test_a_schema_without_dense_features_has_a_width_of_zero() -> None:
    schema = Schema(SCHEMA.features, (), ("click",))
    assert make_batch(FeatureColumns(2), schema).dense.shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ant": [[1], [2]]}, "features.ant must have 3 rows, got 2"),
        ({"ant": []}, "features.ant must have 3 rows, got 0"),
        ({"bee": [[1], [2], [], []]}, "features.bee must have 3 rows, got 4"),
        ({"price": np.zeros((3, 2))}, r"features.price must have shape \(3, 3\), got \(3, 2\)"),
        ({"price": np.zeros((2, 3))}, r"features.price must have shape \(3, 3\), got \(2, 3\)"),
        ({"price": np.zeros(3)}, r"features.price must have shape \(3, 3\), got \(3,\)"),
        ({"age": np.array([[0], [np.nan], [0]])}, "features.age must be finite, got NaN or Inf"),
        ({"price": np.full((3, 3), -np.inf)}, "features.price must be finite, got NaN or Inf"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(change: Mapping[str, object], message: str) -> None:
    sparse = {"zebra": column_of([[1], [], [2, 3]])} | {n: column_of(v) for n, v in change.items() if n in SPARSE}
    dense = {"age": np.zeros((3, 1), np.float32)} | {n: np.asarray(v, np.float32) for n, v in change.items() if n in DENSE}
    make_batch(FeatureColumns(3, {"zebra": sparse["zebra"]}), SCHEMA)
    with pytest.raises(WireError, match=f"^{message}$"):
        make_batch(FeatureColumns(3, sparse, dense), SCHEMA)


def test_a_stranger_is_left_out_whatever_it_holds() -> None:
    nan = {"stranger": np.full((1, 1), np.nan, np.float32)}
    batch = make_batch(FeatureColumns(1, {"other": column_of([[1], [2]])}, nan), SCHEMA)
    assert not len(batch.fids) and not batch.dense.any()
