"""Checks of arguments: an error names the field, its rule and the value, not the types of the core."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from monolith_py.table.views import FloatArray, Int64Array, UInt32Array

_MOST_SECONDS = 2**40


def whole(field: str, value: object) -> int:
    """Return a whole number as an int.

    Raises:
        ValueError: `value` is none.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise ValueError(f"{field} must be a whole number, got {value!r}") from None


def number(field: str, value: object) -> float:
    """Return a number as a float.

    Raises:
        ValueError: `value` is none.
    """
    try:
        return float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{field} must be a number, got {value!r}") from None


def seconds(now_s: object) -> int:
    """Return an event time in whole seconds, rounded down.

    Raises:
        ValueError: `now_s` is no number of seconds within 2^40 of the epoch.
    """
    try:
        rounded = math.floor(cast(float, now_s))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"now_s must be event time in seconds, got {now_s!r}") from None
    if abs(rounded) > _MOST_SECONDS:
        raise ValueError(f"now_s must be within 2^40 seconds of the epoch, got {now_s!r}")
    return rounded


def fids_of(fids: npt.ArrayLike) -> Int64Array:
    """Return fids as int64 (n,).

    Raises:
        ValueError: they are of another type or shape.
    """
    return cast(Int64Array, _array("fids", fids, np.int64, "(n,)"))


def rows_of(rows: npt.ArrayLike) -> UInt32Array:
    """Return rows as uint32 (n,).

    Raises:
        ValueError: they are of another type or shape.
    """
    return cast(UInt32Array, _array("rows", rows, np.uint32, "(n,)"))


def gradients_of(gradients: npt.ArrayLike) -> FloatArray:
    """Return gradients as float32 (n, D).

    Raises:
        ValueError: they are of another type or shape.
    """
    return cast(FloatArray, _array("gradients", gradients, np.float32, "(n, D)"))


def matrix_of(field: str, values: npt.ArrayLike, width: str) -> FloatArray:
    """Return `values` as float32 (n, width); `width` is its letter in the message.

    Raises:
        ValueError: they are of another type or shape.
    """
    return cast(FloatArray, _array(field, values, np.float32, f"(n, {width})"))


def _array(field: str, values: npt.ArrayLike, dtype: type[np.generic], shape: str) -> npt.NDArray[np.generic]:
    """Return contiguous values of the type and number of dimensions; an empty one-dimensional list has any type."""
    array = np.ascontiguousarray(values)
    num_dims = shape.count(",") + (not shape.endswith(",)"))
    if array.dtype != dtype and array.ndim == num_dims == 1 and not array.size:
        array = array.astype(dtype)
    if array.dtype != dtype or array.ndim != num_dims:
        raise ValueError(f"{field} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return array
