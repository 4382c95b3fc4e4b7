"""Attention over sequence features with fixed weights: in numpy for a batch, in the core for a request. `attention.py` has it in torch.

Letters: B rows of a batch, L rows of a sequence, D the dim of a row, P sum of the dims of the pooled rows, R the same with one row for
each attended sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.data.columns import FloatArray
from monolith_py.model.attention_shape import AttentionShape
from monolith_py.model.fixed import InputSplit, fixed_model
from monolith_py.model.shape import ModelShape, Parameters


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


def attended_model(shape: ModelShape, parameters: Parameters, split: InputSplit) -> _core.FixedModel:
    """Return a model in the core that attends over the sequences itself; `split` has the pooled rows, sequences among the shared ones."""
    taken = {one.row + index for one in shape.attention for index in range(one.length)}
    num_pooled = len(split.shared_features) + len(split.candidate_features)
    reads = [place for place in range(shape.num_rows) if place not in {one.place for one in shape.attention}]
    numbers = dict(zip([row for row in range(num_pooled) if row not in taken], reads, strict=True))
    inner = InputSplit(
        tuple(numbers[row] for row in split.shared_features if row not in taken),
        (*(numbers[row] for row in split.candidate_features), *(one.place for one in shape.attention)),
        split.shared_dense,
        split.candidate_dense,
    )
    places = []
    for one in shape.attention:
        is_shared = one.target_row in split.shared_features
        rows = split.shared_features if is_shared else split.candidate_features
        places.append((split.shared_features.index(one.row), one.length, is_shared, rows.index(one.target_row)))
    model = fixed_model(shape, parameters, inner)
    for number, one in enumerate(shape.attention):
        model.add_attention(_layers_in_core(one, parameters, shape.dim), places, number)
    return model


def _layers_in_core(shape: AttentionShape, parameters: Parameters, dim: int) -> list[tuple[FloatArray, FloatArray, bool, bool]]:
    """Return the layers, the first of which reads rows padded to `dim`: (row, target, product)."""
    layers = []
    for index, (_, outputs) in enumerate(shape.layers):
        weight, bias = (
            np.ascontiguousarray(parameters[f"{shape.prefix}.layers.{index}.{part}"], np.float32) for part in ("weight", "bias")
        )
        if index == 0:
            of_target, of_row, of_difference, of_product = np.split(weight, 4, axis=1)
            parts = (of_row - of_difference, of_target + of_difference, of_product)
            weight = np.zeros((outputs, 3 * dim), np.float32)
            for place, part in enumerate(parts):
                weight[:, place * dim : place * dim + shape.dim] = part
        layers.append((weight, bias, index + 1 < len(shape.layers), False))
    return layers


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
