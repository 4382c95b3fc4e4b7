"""Examples and requests to model input: the one function that trainer and replica share.

Letters: B rows, F sparse features, n fids over all features, W sum of the dense features' dims.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py import _core
from monolith_py.data.columns import FeatureColumns, FloatArray, Int32Array, Int64Array, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError


@dataclass(frozen=True)
class Batch:
    """Model input of B rows, feature-major: all fids of the first feature, then of the second."""

    num_rows: int
    names: tuple[str, ...]  # (F,)
    fids: Int64Array  # (n,)
    lengths: Int32Array  # (F * B,)
    dense: FloatArray  # (B, W)

    @property
    def offsets(self) -> Int64Array:
        """Return where each bag begins: int64 (F * B + 1,)."""
        offsets = np.empty(len(self.lengths) + 1, np.int64)
        _core.offsets_of(self.lengths, offsets)
        return offsets

    def sparse(self) -> KeyedJaggedTensor:
        """Return the fids as TorchRec's KeyedJaggedTensor, without a copy."""
        return KeyedJaggedTensor(
            keys=list(self.names),
            values=torch.from_numpy(self.fids),
            lengths=torch.from_numpy(self.lengths),
            offsets=torch.from_numpy(self.offsets),
            stride=self.num_rows,
        )


def make_batch(features: FeatureColumns, schema: Schema) -> Batch:
    """Return model input: the schema's features in its order; an absent sparse feature is an empty bag, an absent dense one zero.

    Raises:
        WireError: a column's rows, width or values do not fit the schema.
    """
    num_rows = features.num_rows
    columns = []
    for name in schema.sparse_names:
        column = features.sparse.get(name)
        if column is None:
            column = SparseColumn.empty(num_rows)
        if len(column.lengths) != num_rows:
            raise WireError(f"features.{name} must have {num_rows} rows, got {len(column)}")
        columns.append(column)
    parts = []
    for dense in schema.dense_features:
        values = features.dense.get(dense.name)
        if values is None:
            values = np.zeros((num_rows, dense.dim), np.float32)
        if values.shape != (num_rows, dense.dim):
            raise WireError(f"features.{dense.name} must have shape {(num_rows, dense.dim)}, got {values.shape}")
        parts.append(values)
    merged = np.concatenate(parts, axis=1) if parts else np.zeros((num_rows, 0), np.float32)
    if not np.isfinite(merged).all():
        name = next(dense.name for dense, values in zip(schema.dense_features, parts, strict=True) if not np.isfinite(values).all())
        raise WireError(f"features.{name} must be finite, got NaN or Inf")
    return Batch(
        num_rows,
        schema.sparse_names,
        np.concatenate([column.fids for column in columns]),
        np.concatenate([column.lengths for column in columns]),
        merged,
    )
