"""Feature columns to and from protobuf. Letters: B rows, n fids of a sparse column."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

import numpy as np

from monolith_py.data.columns import FeatureColumns, FloatArray, SparseColumn
from monolith_py.errors import WireError
from monolith_py.pb import example_pb2 as pb


def columns_to_proto(columns: FeatureColumns) -> pb.FeatureColumns:
    """Return `columns` as a message, without the lengths of a column with one fid in each row."""
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
    """Return the columns of `message`, each of `num_rows` rows; errors call the message `field`.

    Raises:
        WireError: `message` breaks a rule of `check_columns`.
    """
    check_columns(message, num_rows, field)
    return read_columns(message, num_rows)


def read_columns(message: pb.FeatureColumns, num_rows: int) -> FeatureColumns:
    """Return the columns of `message`, which `check_columns` found valid."""
    return FeatureColumns(
        num_rows,
        {column.name: _sparse_column(column, num_rows) for column in message.sparse},
        {column.name: _dense_column(column, num_rows) for column in message.dense},
    )


def check_columns(message: pb.FeatureColumns, num_rows: int, field: str) -> set[str]:
    """Check that `message` holds valid columns of `num_rows` rows, without building an array; return their names.

    Raises:
        WireError: a name is empty or occurs twice, a column does not have `num_rows` rows, or a dense value is not finite.
    """
    if num_rows < 1:
        raise WireError(f"{field} must have at least one row, got {num_rows}")
    names: set[str] = set()
    for sparse in message.sparse:
        name, lengths, num_fids = sparse.name, sparse.lengths, len(sparse.fids)
        if not name or name in names:
            raise _bad_name(name, f"{field}.sparse")
        names.add(name)
        if not lengths:
            if num_fids != num_rows:
                rule = f"must have one fid for each of {num_rows} rows if lengths are absent"
                raise WireError(f"{field}.{name}.fids {rule}, got {num_fids}")
        elif len(lengths) != num_rows:
            raise WireError(f"{field}.{name}.lengths must have {num_rows} rows, got {len(lengths)}")
        elif sum(lengths) != num_fids:
            raise WireError(f"{field}.{name}.lengths must add up to {num_fids} fids, got {sum(lengths)}")
    for dense in message.dense:
        name, values = dense.name, dense.values
        if not name or name in names:
            raise _bad_name(name, f"{field}.dense")
        names.add(name)
        if len(values) % num_rows:
            raise WireError(f"{field}.{name}.values must be a multiple of {num_rows} rows, got {len(values)}")
        check_finite(values, f"{field}.{name}.values")
    return names


def check_finite(values: Iterable[float], field: str) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        WireError: one is.
    """
    if not all(map(isfinite, values)):
        raise WireError(f"{field} must be finite, got {next(value for value in values if not isfinite(value))}")


def _bad_name(name: str, field: str) -> WireError:
    return WireError(f"{field}.name must be unique, got {name!r} twice" if name else f"{field}.name must not be empty, got ''")


def _sparse_column(message: pb.SparseColumn, num_rows: int) -> SparseColumn:
    lengths = np.array(message.lengths, np.int32) if message.lengths else np.ones(num_rows, np.int32)
    return SparseColumn(np.array(message.fids, np.int64), lengths)


def _dense_column(message: pb.DenseColumn, num_rows: int) -> FloatArray:
    return np.array(message.values, np.float32).reshape(num_rows, -1)  # (B, width)
