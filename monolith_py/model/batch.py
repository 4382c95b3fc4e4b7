"""Model input, made in one place for trainer and replica, from feature columns or from packed rows.

Letters: B rows, F sparse features, n fids over all features, W sum of the dense features' dims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from monolith_py import _core
from monolith_py.data.columns import FeatureColumns, FloatArray, Int32Array, Int64Array, SparseColumn, StackedColumns
from monolith_py.data.packed_rows import PackedRows
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Batch:
    """Model input of B rows, feature-major: all fids of the first feature, then of the second."""

    num_rows: int
    names: tuple[str, ...]  # (F,)
    fids: Int64Array  # (n,)
    lengths: Int32Array  # (F * B,)
    dense: FloatArray  # (B, W)

    @staticmethod
    def of(rows: PackedRows, schema: Schema) -> Batch:
        """Return model input from packed rows whose features have the schema's order.

        Raises:
            WireError: a dense value is not finite.
        """
        assert rows.lengths.shape[1] == len(schema.sparse_names), (rows.lengths.shape, schema.sparse_names)
        fids, lengths = rows.by_feature()
        return Batch(len(rows), schema.sparse_names, fids, lengths, _checked_dense(rows.dense, schema))

    @property
    def offsets(self) -> Int64Array:
        """Return the start of each bag and the end of the last: int64 (F * B + 1,)."""
        offsets = np.empty(len(self.lengths) + 1, np.int64)
        _core.offsets_of(self.lengths, offsets)
        return offsets

    def sparse(self) -> KeyedJaggedTensor:
        """Return the fids as TorchRec's KeyedJaggedTensor, without a copy."""
        # Training only: their import takes seconds.
        import torch
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        return KeyedJaggedTensor(
            keys=list(self.names),
            values=torch.from_numpy(self.fids),
            lengths=torch.from_numpy(self.lengths),
            offsets=torch.from_numpy(self.offsets),
            stride=self.num_rows,
        )


def make_batch(features: FeatureColumns, schema: Schema) -> Batch:
    """Return model input from feature columns; an absent sparse feature is an empty bag, an absent dense feature is zero.

    Raises:
        WireError: rows, width or values of a column do not fit the schema.
    """
    num_rows = features.num_rows
    if isinstance(features, StackedColumns) and features.form == schema.input_form:
        dense = _checked_dense(features.matrix, schema)
        return Batch(num_rows, schema.sparse_names, features.fids, features.lengths, dense)
    columns = []
    for name in schema.sparse_names:
        column = features.sparse.get(name)
        if column is None:
            column = SparseColumn.empty(num_rows)
        if len(column.lengths) != num_rows:
            raise WireError(f"features.{name} must have {num_rows} rows, got {len(column)}")
        columns.append(column)
    parts = [np.zeros((num_rows, 0), np.float32)]
    for feature in schema.dense_features:
        values = features.dense.get(feature.name)
        if values is None:
            values = np.zeros((num_rows, feature.dim), np.float32)
        if values.shape != (num_rows, feature.dim):
            raise WireError(f"features.{feature.name} must have shape {(num_rows, feature.dim)}, got {values.shape}")
        parts.append(values)
    return Batch(
        num_rows,
        schema.sparse_names,
        np.concatenate([column.fids for column in columns]),
        np.concatenate([column.lengths for column in columns]),
        _checked_dense(np.concatenate(parts, axis=1), schema),
    )


def _checked_dense(dense: FloatArray, schema: Schema) -> FloatArray:
    """Return `dense` float32 (B, W).

    Raises:
        WireError: a value is not finite; the message names its feature.
    """
    assert dense.shape[1] == schema.dense_width, (dense.shape, schema.dense_width)
    if not np.isfinite(dense).all():
        widths = np.cumsum([feature.dim for feature in schema.dense_features])
        column = int(np.flatnonzero(~np.isfinite(dense).all(axis=0))[0])
        name = schema.dense_names[int(np.searchsorted(widths, column, side="right"))]
        raise WireError(f"features.{name} must be finite, got NaN or Inf")
    return dense
