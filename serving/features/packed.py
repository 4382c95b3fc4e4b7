"""Features of users, items and requests in packed form: few arrays instead of one for each feature, until a batch is made.

Letters: R packed rows, F sparse features, W sum of the dense features' dims, n fids, B rows after repeating.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monolith_py.config import DenseFeatureConfig
from monolith_py.data.columns import FeatureColumns, FloatArray, Int32Array, Int64Array, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError


@dataclass(frozen=True)
class FeatureOrder:
    """Which features a packed row holds, in order; those that take the id itself as their fid come first."""

    id_features: tuple[str, ...]
    sparse: tuple[str, ...]
    dense: tuple[DenseFeatureConfig, ...]

    @staticmethod
    def of(schema: Schema, source: str, id_source: str | None = None) -> FeatureOrder:
        """Return the order of the schema's features from `source`, and of those whose fid is the id itself."""
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
        """Return the packed form of one row of columns; what is absent is empty or zero, columns of other features are left out.

        Raises:
            WireError: a dense column is not as wide as the schema says.
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


@dataclass(frozen=True)
class PackedRow:
    """Features of one user, item or request."""

    fids: Int64Array  # (n,)
    lengths: Int32Array  # (F,)
    dense: FloatArray  # (W,)


@dataclass(frozen=True)
class PackedRows:
    """R packed rows of one order."""

    fids: Int64Array  # (n,) row by row
    lengths: Int32Array  # (R, F)
    dense: FloatArray  # (R, W)

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def of(rows: Sequence[PackedRow]) -> PackedRows:
        """Return the rows, at least one, together."""
        if len(rows) == 1:
            return PackedRows(rows[0].fids, rows[0].lengths[None], rows[0].dense[None])
        lengths = np.concatenate([row.lengths for row in rows]).reshape(len(rows), -1)  # (R, F)
        dense = np.concatenate([row.dense for row in rows]).reshape(len(rows), -1)  # (R, W)
        return PackedRows(np.concatenate([row.fids for row in rows]), lengths, dense)

    @staticmethod
    def concat(parts: Sequence[PackedRows]) -> PackedRows:
        """Return the rows of all parts, at least one, in order."""
        if len(parts) == 1:
            return parts[0]
        return PackedRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("fids", "lengths", "dense")))

    def beside(self, other: PackedRows) -> PackedRows:
        """Return one row with the features of `self`, then of `other`; both must have one row."""
        assert len(self) == len(other) == 1
        return PackedRows(
            np.concatenate([self.fids, other.fids]),
            np.concatenate([self.lengths, other.lengths], axis=1),
            np.concatenate([self.dense, other.dense], axis=1),
        )

    def feature(self, index: int) -> tuple[Int64Array, Int32Array]:
        """Return the fids of one feature, row by row, and how many each row has: int64 (m,), int32 (R,)."""
        starts = np.cumsum(self.lengths, dtype=np.int64).reshape(self.lengths.shape) - self.lengths
        lengths = self.lengths[:, index]
        return self.fids[_ragged_index(starts[:, index], lengths)], lengths

    def with_dense(self, dense: FloatArray) -> PackedRows:
        """Return these rows with `dense` float32 (R, V) after their own dense values."""
        return PackedRows(self.fids, self.lengths, np.concatenate([self.dense, dense], axis=1))

    def columns(self, names: Sequence[str], dense: Sequence[DenseFeatureConfig], repeats: Int64Array | None = None) -> FeatureColumns:
        """Return the rows as feature columns, each row `repeats[r]` times (once by default)."""
        lengths = self.lengths  # (B, F) below
        starts = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape) - lengths
        values = self.dense
        if repeats is not None:
            lengths, starts, values = (np.repeat(array, repeats, axis=0) for array in (lengths, starts, values))
        by_feature = np.ascontiguousarray(lengths.T)  # (F, B)
        bounds = [0, *np.cumsum(by_feature.sum(axis=1)).tolist()]
        fids = self.fids[_ragged_index(starts.T.ravel(), by_feature.ravel())]
        sparse = {name: SparseColumn(fids[bounds[f] : bounds[f + 1]], by_feature[f]) for f, name in enumerate(names)}
        columns: dict[str, FloatArray] = {}
        first = 0
        for feature in dense:
            columns[feature.name] = values[:, first : first + feature.dim]
            first += feature.dim
        return FeatureColumns(len(lengths), sparse, columns)


def _ragged_index(starts: Int64Array, lengths: Int32Array) -> Int64Array:
    """Return starts[0], starts[0] + 1, ... (lengths[0] of them), then the same for the next: int64 (sum of lengths,)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if not len(ends):
        return np.empty(0, np.int64)
    index: Int64Array = np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)
    return index
