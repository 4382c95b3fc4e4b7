"""Attention over sequence features with fixed weights, in numpy: for replicas on the CPU. `attention.py` is the same in torch.

Letters: B rows of a batch, L rows of a sequence, D the dim of a row, P sum of the dims of the pooled rows, R the same with one row for
each attended sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FloatArray
from monolith_py.model.attention_shape import AttentionShape


def attended(shapes: Sequence[AttentionShape], parameters: Mapping[str, npt.NDArray[Any]], pooled: FloatArray) -> FloatArray:
    """Return pooled rows with one row in the place of each attended sequence, float32 (B, P) -> (B, R)."""
    parts, done = [], 0
    for shape in shapes:
        end = shape.start + shape.length * shape.dim
        rows = pooled[:, shape.start : end].reshape(-1, shape.length, shape.dim)
        target = pooled[:, shape.target : shape.target + shape.dim]
        weights = _weights(shape, parameters, rows, target)  # (B, L)
        parts += [pooled[:, done : shape.start], np.matmul(weights[:, np.newaxis], rows)[:, 0]]
        done = end
    return np.concatenate([*parts, pooled[:, done:]], axis=1)


def _weights(shape: AttentionShape, parameters: Mapping[str, npt.NDArray[Any]], rows: FloatArray, target: FloatArray) -> FloatArray:
    """Return the weight of each row, (B, L)."""
    weight, bias = (parameters[f"{shape.prefix}.layers.0.{part}"] for part in ("weight", "bias"))
    of_target, of_row, of_difference, of_product = np.split(weight, 4, axis=1)  # (O, D) each
    outputs = rows @ (of_row - of_difference).T + (rows * target[:, np.newaxis]) @ of_product.T
    outputs += (target @ (of_target + of_difference).T + bias)[:, np.newaxis]
    for index in range(1, len(shape.layers)):
        weight, bias = (parameters[f"{shape.prefix}.layers.{index}.{part}"] for part in ("weight", "bias"))
        outputs = np.maximum(outputs, 0) @ weight.T + bias
    found: FloatArray = outputs[:, :, 0]
    return found
