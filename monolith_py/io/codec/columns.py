"""Feature columns to and from protobuf. Letters as in example.py: B rows, n fids of a sparse column."""

from __future__ import annotations

import numpy as np

from monolith_py.data.columns import FeatureColumns, FloatArray, SparseColumn
from monolith_py.errors import WireError
from monolith_py.pb import example_pb2 as pb


def columns_to_proto(columns: FeatureColumns) -> pb.FeatureColumns:
    """Return `columns` as a message; lengths are left out of a column with one fid in each row."""
    message = pb.FeatureColumns()
    for name, sparse in columns.sparse.items():
        assert len(sparse) == columns.num_rows and int(sparse.lengths.sum()) == len(sparse.fids), name
        one_each = len(sparse) > 0 and bool((sparse.lengths == 1).all())
        message.sparse.add(name=name, fids=sparse.fids.tolist(), lengths=[] if one_each else sparse.lengths.tolist())
    for name, values in columns.dense.items():
        assert values.ndim == 2 and len(values) == columns.num_rows, name
        message.dense.add(name=name, values=values.ravel().tolist())
    return message


def columns_from_proto(message: pb.FeatureColumns, num_rows: int, field: str = "features") -> FeatureColumns:
    """Return the columns of `message`, each of `num_rows` rows; `field` names the message in errors.

    Raises:
        WireError: a name is empty or comes twice, a column does not have `num_rows` rows, or a dense value is not finite.
    """
    if num_rows < 1:
        raise WireError(f"{field} must have at least one row, got {num_rows}")
    sparse: dict[str, SparseColumn] = {}
    dense: dict[str, FloatArray] = {}
    for sparse_message in message.sparse:
        name = _new_name(sparse_message.name, f"{field}.sparse", sparse, dense)
        sparse[name] = _sparse_column(sparse_message, num_rows, f"{field}.{name}")
    for dense_message in message.dense:
        name = _new_name(dense_message.name, f"{field}.dense", sparse, dense)
        dense[name] = _dense_column(dense_message, num_rows, f"{field}.{name}")
    return FeatureColumns(num_rows, sparse, dense)


def _new_name(name: str, field: str, *taken: dict[str, SparseColumn] | dict[str, FloatArray]) -> str:
    if not name:
        raise WireError(f"{field}.name must not be empty, got ''")
    if any(name in columns for columns in taken):
        raise WireError(f"{field}.name must be unique, got {name!r} twice")
    return name


def _sparse_column(message: pb.SparseColumn, num_rows: int, field: str) -> SparseColumn:
    fids = np.array(message.fids, np.int64)
    if not message.lengths:
        if len(fids) != num_rows:
            raise WireError(f"{field}.fids must have one fid for each of {num_rows} rows where lengths are absent, got {len(fids)}")
        return SparseColumn(fids, np.ones(num_rows, np.int32))
    lengths = np.array(message.lengths, np.int64)
    if len(lengths) != num_rows:
        raise WireError(f"{field}.lengths must have {num_rows} rows, got {len(lengths)}")
    if int(lengths.sum()) != len(fids):
        raise WireError(f"{field}.lengths must add up to {len(fids)} fids, got {int(lengths.sum())}")
    return SparseColumn(fids, lengths.astype(np.int32))


def _dense_column(message: pb.DenseColumn, num_rows: int, field: str) -> FloatArray:
    values = np.array(message.values, np.float32)
    if len(values) % num_rows:
        raise WireError(f"{field}.values must be a multiple of {num_rows} rows, got {len(values)}")
    if not np.isfinite(values).all():
        raise WireError(f"{field}.values must be finite, got {values[~np.isfinite(values)][0]}")
    return values.reshape(num_rows, -1)  # (B, width)
