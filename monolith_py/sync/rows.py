"""Rows of weights as bytes: fp32, fp16, int8 and int4, laid out as FBGEMM's inference tables hold them.

Letters: n rows, D = dim, R = bytes of one row.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.data.columns import FloatArray
from monolith_py.errors import ModelNotFinite, WireError
from monolith_py.pb import parameter_sync_pb2 as pb

ByteArray = npt.NDArray[np.uint8]

# fp16 scale and fp16 bias of an int8 or int4 row.
_HEADER_BYTES = 4


class RowEncoding(Enum):
    """Packing of a row of D weights."""

    FP32 = "fp32"  # D x float32, little-endian
    FP16 = "fp16"  # D x float16, little-endian
    INT8 = "int8"  # float16 scale, float16 bias, D x uint8: weight = scale * q + bias
    INT4 = "int4"  # the same with 4 bits a weight, the first of a byte in its low bits


ENCODING_TO_WIRE = {
    RowEncoding.FP32: pb.ROW_ENCODING_FP32,
    RowEncoding.FP16: pb.ROW_ENCODING_FP16,
    RowEncoding.INT8: pb.ROW_ENCODING_INT8,
    RowEncoding.INT4: pb.ROW_ENCODING_INT4,
}
_ENCODING_FROM_WIRE = {wire: encoding for encoding, wire in ENCODING_TO_WIRE.items()}


def encoding_from_wire(field: str, value: int, known: Iterable[RowEncoding] = RowEncoding) -> RowEncoding:
    """Return the encoding of a number in the field `field` of a message.

    Raises:
        WireError: the number is of none of `known`.
    """
    encoding = _ENCODING_FROM_WIRE.get(value)
    names = {one: f"{ENCODING_TO_WIRE[one]} ({one.value})" for one in known}
    if encoding not in names:
        got = f"{value} ({encoding.value})" if encoding else str(value)
        raise WireError(f"{field} must be one of {', '.join(names.values())}, got {got}")
    return encoding


def row_bytes(dim: int, encoding: RowEncoding) -> int:
    """Return R, the bytes of one row of `dim` weights.

    >>> row_bytes(16, RowEncoding.INT8)
    20
    """
    match encoding:
        case RowEncoding.FP32:
            return 4 * dim
        case RowEncoding.FP16:
            return 2 * dim
        case RowEncoding.INT8:
            return _HEADER_BYTES + dim
        case RowEncoding.INT4:
            return _HEADER_BYTES + (dim + 1) // 2
        case _:
            assert_never(encoding)


def pack_rows(weights: FloatArray, encoding: RowEncoding) -> ByteArray:
    """Return `weights` float32 (n, D) as bytes uint8 (n, R).

    fp16 rounds to nearest and clips to +-65504; the error of int8 and int4 is at most half a scale, plus the rounding of scale and bias to
    fp16. The scale is the range of the row over 255 or 15.

    Raises:
        ModelNotFinite: a weight is NaN or infinite.
    """
    finite = np.isfinite(weights)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise ModelNotFinite(f"weights must be finite, got {weights[row][~finite[row]][0]} in row {row} of {len(weights)}")
    return _core.pack_rows(np.ascontiguousarray(weights, np.float32), encoding.value)


def unpack_rows(rows: ByteArray, dim: int, encoding: RowEncoding) -> FloatArray:
    """Return the weights float32 (n, D) of packed rows uint8 (n, R)."""
    assert rows.shape[1] == row_bytes(dim, encoding), (rows.shape, dim, encoding)
    rows = np.ascontiguousarray(rows)
    match encoding:
        case RowEncoding.FP32:
            return rows.view("<f4").astype(np.float32, copy=False)
        case RowEncoding.FP16:
            return rows.view("<f2").astype(np.float32)
        case RowEncoding.INT8 | RowEncoding.INT4:
            header = rows[:, :_HEADER_BYTES].copy().view("<f2").astype(np.float32)  # (n, 2)
            levels = rows[:, _HEADER_BYTES:]
            if encoding is RowEncoding.INT4:
                levels = np.stack([levels & 15, levels >> 4], axis=2).reshape(len(rows), 2 * levels.shape[1])[:, :dim]
            weights: FloatArray = levels * header[:, :1] + header[:, 1:]
            return weights
        case _:
            assert_never(encoding)


def rows_are_finite(rows: ByteArray, encoding: RowEncoding) -> bool:
    """Return whether packed rows uint8 (n, R) hold no NaN and no infinity."""
    match encoding:
        case RowEncoding.FP32:
            return bool(np.isfinite(np.ascontiguousarray(rows).view("<f4")).all())
        case RowEncoding.FP16:
            return _fp16_is_finite(np.ascontiguousarray(rows))
        case RowEncoding.INT8 | RowEncoding.INT4:
            return _fp16_is_finite(rows[:, :_HEADER_BYTES].copy())
        case _:
            assert_never(encoding)


def check_rows(rows: ByteArray, encoding: RowEncoding) -> None:
    """Check that packed rows uint8 (n, R) are finite.

    Raises:
        ModelNotFinite: a weight is NaN or infinite; the message names the row.
    """
    if not rows_are_finite(rows, encoding):
        row = next(row for row in range(len(rows)) if not rows_are_finite(rows[row : row + 1], encoding))
        raise ModelNotFinite(f"weights must be finite, got NaN or Inf in row {row} of {len(rows)}")


def _fp16_is_finite(values: ByteArray) -> bool:
    exponent = np.uint16(0x7C00)
    return not bool(((values.view("<u2") & exponent) == exponent).any())
