"""A ranking model with its current weights in the core, for replicas on the CPU.

The inputs of a model are split by whether the candidates of a request share them: the shared ones go through the first layers once.
Letters: F sparse features, D their dim, R rows of a DLRM (with that of its bottom tower), T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from monolith_py import _core
from monolith_py.data.columns import FloatArray
from monolith_py.model.ranking import DLRM, DeepFM, RankModel
from monolith_py.tower import Tower

# Weights (O, I), biases (O,), whether ReLU follows, whether the layer computes in bf16.
_Layer = tuple[FloatArray, FloatArray, bool, bool]


@dataclass(frozen=True)
class InputSplit:
    """Places in the schema of the inputs that candidates share, and of those of each candidate, in the order of their rows."""

    shared_features: tuple[int, ...]
    candidate_features: tuple[int, ...]
    shared_dense: tuple[int, ...]  # columns of the dense features
    candidate_dense: tuple[int, ...]


def fixed_model(model: RankModel, split: InputSplit) -> _core.FixedModel:
    """Return the model with its current weights, in evaluation mode: it ignores later changes."""
    features = len(split.shared_features), len(split.candidate_features)
    dense = len(split.shared_dense), len(split.candidate_dense)
    kind = "dlrm" if isinstance(model, DLRM) else "deepfm"
    fixed = _core.FixedModel(kind, model.dim, features, dense, model.head.out_features)
    columns = _dlrm_columns(model, split) if isinstance(model, DLRM) else _deepfm_columns(model, split)
    with torch.no_grad():
        if isinstance(model, DLRM) and model.bottom is not None:
            fixed.set_bottom(_layers(model.bottom, model.bf16), split.shared_dense, split.candidate_dense)
        if isinstance(model, DeepFM):
            fixed.set_scales(_array(model.scales))
        _set_top(fixed, model, *columns)
    return fixed


def _set_top(fixed: _core.FixedModel, model: RankModel, shared: Sequence[int], candidate: Sequence[int]) -> None:
    """Set tower and head, whose inputs `shared` come before the inputs `candidate`."""
    head: list[_Layer] = [(_array(model.head.weight), _array(model.head.bias), False, False)]
    stacks = model.tower.fixed_stacks([*shared, *candidate])
    if stacks:
        fixed.set_top(head, [], range(model.head.in_features), stacks)
    else:
        fixed.set_top(_layers(model.tower, model.bf16) + head, shared, candidate, [])


def _layers(tower: Tower, bf16: bool) -> list[_Layer]:
    return [(_array(layer.weight), _array(layer.bias), True, bf16) for layer in tower.fixed_layers()]


def _array(parameter: nn.Parameter | torch.Tensor) -> FloatArray:
    return np.ascontiguousarray(parameter.detach().float().cpu().numpy())


def _row_columns(rows: Sequence[int], dim: int, start: int = 0) -> list[int]:
    return [start + row * dim + index for row in rows for index in range(dim)]


def _deepfm_columns(model: RankModel, split: InputSplit) -> tuple[list[int], list[int]]:
    width = model.num_features * model.dim
    shared = _row_columns(split.shared_features, model.dim) + [width + column for column in split.shared_dense]
    candidate = _row_columns(split.candidate_features, model.dim) + [width + column for column in split.candidate_dense]
    return shared, candidate


def _dlrm_columns(model: DLRM, split: InputSplit) -> tuple[list[int], list[int]]:
    """Return the columns of rows, then of dot products: row by row, with the shared rows and with the rows before it."""
    bottom = [] if model.bottom is None else [model.num_features]
    is_shared = not split.candidate_dense
    shared_rows = [*split.shared_features, *(bottom if is_shared else [])]
    own_rows = [*split.candidate_features, *([] if is_shared else bottom)]
    num_rows = model.num_features + len(bottom)
    num_pairs = num_rows * (num_rows - 1) // 2

    def pair(one: int, other: int) -> int:
        first, second = min(one, other), max(one, other)
        return first * num_rows - first * (first + 1) // 2 + second - first - 1

    shared = _row_columns(shared_rows, model.dim, num_pairs)
    shared += [pair(row, before) for place, row in enumerate(shared_rows) for before in shared_rows[:place]]
    own = _row_columns(own_rows, model.dim, num_pairs)
    own += [pair(row, other) for place, row in enumerate(own_rows) for other in [*shared_rows, *own_rows[:place]]]
    return shared, own
