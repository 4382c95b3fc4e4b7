"""The order of packed features: the schema's, per source, with gaps filled."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.config import DenseFeatureConfig, FeatureConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_serving.features.order import FeatureOrder

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
ORDER = FeatureOrder.of(SCHEMA, "user", "user_id")


def column(*fids: int) -> SparseColumn:
    return SparseColumn(np.array(fids, np.int64), np.array([len(fids)], np.int32))


def test_an_order_holds_its_own_source_and_id_features():
    assert ORDER.names == ("user_id", "city", "tags")
    assert [dense.name for dense in ORDER.dense] == ["age", "taste"]


def test_packing_leaves_out_other_features_and_fills_absent_ones():
    columns = FeatureColumns(1, {"tags": column(5, 6), "unknown": column(9)}, {"taste": np.array([[1, 2]], np.float32)})
    row = ORDER.pack(columns, entity_id=7)
    assert (row.fids.tolist(), row.lengths.tolist(), row.dense.tolist()) == ([7, 5, 6], [1, 0, 2], [0, 1, 2])


def test_an_unknown_user_has_its_id_and_nothing_else():
    row = ORDER.pack(None, entity_id=-3)
    assert (row.fids.tolist(), row.lengths.tolist(), row.dense.tolist()) == ([-3], [1, 0, 0], [0, 0, 0])


def test_a_dense_column_of_another_width_is_refused():
    with pytest.raises(WireError, match=r"features.taste must have 2 values, got 3"):
        ORDER.pack(FeatureColumns(1, {}, {"taste": np.zeros((1, 3), np.float32)}), 1)
