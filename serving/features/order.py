"""Orders of features: in a packed row of one source, and in the rows of a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monolith_py.config import CounterConfig, DenseFeatureConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.packed_rows import PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError


@dataclass(frozen=True)
class FeatureOrder:
    """Features of a packed row, in order; the features whose fid is the entity's own id precede the others."""

    id_features: tuple[str, ...]
    sparse: tuple[str, ...]
    dense: tuple[DenseFeatureConfig, ...]

    @staticmethod
    def of(schema: Schema, source: str, id_source: str | None = None) -> FeatureOrder:
        """Return the order of the schema's features of `source`; the fids of `id_source` features are the id itself."""
        return FeatureOrder(
            tuple(feature.name for feature in schema.features if feature.source == id_source),
            tuple(feature.name for feature in schema.features if feature.source == source),
            tuple(dense for dense in schema.dense_features if dense.source == source),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all sparse features."""
        return self.id_features + self.sparse

    def pack(self, columns: FeatureColumns | None, entity_id: int | None = None) -> PackedRow:
        """Return one row of columns in packed form. Absent features are empty bags or zeros; other features are left out.

        Raises:
            WireError: a dense column has another width than the schema.
        """
        sparse = [columns.sparse.get(name) if columns is not None else None for name in self.sparse]
        fids = [np.full(len(self.id_features), entity_id or 0, np.int64), *(column.fids for column in sparse if column is not None)]
        lengths = [1] * len(self.id_features) + [0 if column is None else len(column.fids) for column in sparse]
        dense = [np.empty(0, np.float32)]
        for feature in self.dense:
            values = columns.dense.get(feature.name) if columns is not None else None
            if values is None:
                values = np.zeros((1, feature.dim), np.float32)
            if values.shape != (1, feature.dim):
                raise WireError(f"features.{feature.name} must have {feature.dim} values, got {values.shape[1]}")
            dense.append(values[0])
        return PackedRow(np.concatenate(fids), np.array(lengths, np.int32), np.concatenate(dense))

    def pack_rows(self, columns: FeatureColumns) -> PackedRows:
        """Return columns of any number of rows in packed form; absent features are empty bags or zeros. There must be no id feature.

        Raises:
            WireError: a dense column has another width than the schema.
        """
        assert not self.id_features, self.id_features
        num_rows, fids = columns.num_rows, [np.empty(0, np.int64)]
        starts, lengths = np.zeros((num_rows, len(self.sparse)), np.int64), np.zeros((num_rows, len(self.sparse)), np.int32)
        num_fids = 0
        for index, name in enumerate(self.sparse):
            column = columns.sparse.get(name)
            if column is not None:
                lengths[:, index] = column.lengths
                starts[:, index] = num_fids + np.cumsum(column.lengths, dtype=np.int64) - column.lengths
                fids.append(column.fids)
                num_fids += len(column.fids)
        dense = [np.empty((num_rows, 0), np.float32)]
        for feature in self.dense:
            values = columns.dense.get(feature.name, np.zeros((num_rows, feature.dim), np.float32))
            if values.shape != (num_rows, feature.dim):
                raise WireError(f"features.{feature.name} must have {feature.dim} values a row, got {values.shape[1]}")
            dense.append(values)
        return PackedRows(np.concatenate(fids), starts, lengths, np.concatenate(dense, axis=1))


@dataclass(frozen=True)
class RequestOrder:
    """Features of a request, in order: shared by its candidates, and of each candidate. Live counters are the last dense ones."""

    user: FeatureOrder
    context: FeatureOrder
    item: FeatureOrder
    candidate: FeatureOrder
    shared_keys: tuple[str, ...]  # features with live counters
    candidate_keys: tuple[str, ...]
    shared_dense: tuple[DenseFeatureConfig, ...]
    candidate_dense: tuple[DenseFeatureConfig, ...]

    @staticmethod
    def of(schema: Schema, counters: CounterConfig) -> RequestOrder:
        """Return the order of the features of `schema`."""
        user, context = FeatureOrder.of(schema, "user", "user_id"), FeatureOrder.of(schema, "context")
        item, candidate = FeatureOrder.of(schema, "item", "item_id"), FeatureOrder.of(schema, "candidate")
        shared_names = user.names + context.names
        keys = counters.keys if counters.enabled else ()
        shared_keys = tuple(key for key in keys if key in shared_names)
        candidate_keys = tuple(key for key in keys if key not in shared_names)
        counter_of = {dense.name: dense for dense in schema.dense_features if dense.source == "counter"}
        shared_dense = (*user.dense, *context.dense, *(counter_of[f"counter_{key}"] for key in shared_keys))
        candidate_dense = (*item.dense, *candidate.dense, *(counter_of[f"counter_{key}"] for key in candidate_keys))
        return RequestOrder(user, context, item, candidate, shared_keys, candidate_keys, shared_dense, candidate_dense)

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Return the names of the shared sparse features."""
        return self.user.names + self.context.names

    @property
    def candidate_names(self) -> tuple[str, ...]:
        """Return the names of the candidates' sparse features."""
        return self.item.names + self.candidate.names
