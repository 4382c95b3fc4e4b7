"""Orders of a request's features in the form that the core's ranker and model take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monolith_py.config import DenseFeatureConfig
from monolith_py.data.schema import Schema
from monolith_py.model.fixed import InputSplit
from monolith_serving.features.order import FeatureOrder, RequestOrder

# Features, those with live counters, width of the dense values, rows of sequences, places and widths of dense features.
Group = tuple[list[int], list[int], int, list[int], list[tuple[int, int]]]


def split_of(schema: Schema, order: RequestOrder) -> InputSplit:
    """Return the places of the request's features in the schema, a sequence as its rows."""
    rows = np.cumsum([0, *(feature.num_rows for feature in schema.features)]).tolist()
    starts = dict(zip(schema.dense_names, np.cumsum([0, *schema.dense_dims.values()]).tolist(), strict=False))

    def columns(names: Sequence[str]) -> tuple[int, ...]:
        return tuple(starts[name] + index for name in names for index in range(schema.dense_dims[name]))

    def rows_of(names: Sequence[str]) -> tuple[int, ...]:
        places = (schema.sparse_names.index(name) for name in names)
        return tuple(row for place in places for row in range(rows[place], rows[place + 1]))

    return InputSplit(
        rows_of(order.shared_names),
        rows_of(order.candidate_names),
        columns([feature.name for feature in order.shared_dense]),
        columns([feature.name for feature in order.candidate_dense]),
    )


def entity_order(order: FeatureOrder) -> tuple[int, int, int]:
    """Return the numbers of id features and of stored ones, and the width of the dense ones."""
    return len(order.id_features), len(order.sparse), sum(feature.dim for feature in order.dense)


def columns_of(order: FeatureOrder) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Return the features that a request brings: sparse ones, and dense ones with their widths."""
    return order.sparse, [(feature.name, feature.dim) for feature in order.dense]


def group_of(schema: Schema, names: Sequence[str], keys: Sequence[str], dense: Sequence[DenseFeatureConfig]) -> Group:
    """Return the order of a group of rows: see `GroupOrder` of the core."""
    features = [schema.sparse_names.index(name) for name in names]
    places = [(len(schema.features) + schema.dense_names.index(feature.name), feature.dim) for feature in dense]
    sequences = [schema.features[feature].length for feature in features]
    return features, [names.index(key) for key in keys], sum(feature.dim for feature in dense), sequences, places
