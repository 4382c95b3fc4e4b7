"""A ranking model with its current weights in the core, for replicas on the CPU.

The inputs of a model are split by whether the candidates of a request share them: the shared ones go through the first layers once.
The core has rows of one dim: those of narrower features are padded, and the first layer has zeros for the padding.
Letters: F pooled rows, D the greatest of their dims, R rows of a DLRM (with that of its bottom tower), T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.data.columns import FloatArray
from monolith_py.model.fixed_tower import dense_layer, padded_columns, tower_stacks
from monolith_py.model.gating import Gating, from_digits
from monolith_py.model.shape import LayerShape, ModelShape, Parameters

# Weights (O, I), biases (O,), whether ReLU follows, whether the layer computes in bf16.
_Layer = tuple[FloatArray, FloatArray, bool, bool]


@dataclass(frozen=True)
class InputSplit:
    """Places in the schema of the inputs that candidates share, and of those of each candidate, in the order of their rows."""

    shared_features: tuple[int, ...]
    candidate_features: tuple[int, ...]
    shared_dense: tuple[int, ...]  # columns of the dense features
    candidate_dense: tuple[int, ...]


def fixed_model(shape: ModelShape, parameters: Parameters, split: InputSplit) -> _core.FixedModel:
    """Return a model of `shape` with the weights `parameters`, which `shape.check` has passed."""
    features = len(split.shared_features), len(split.candidate_features)
    dense = len(split.shared_dense), len(split.candidate_dense)
    fixed = _core.FixedModel(shape.kind, shape.dim, features, dense, shape.num_tasks)
    shared, candidate = (_dlrm_columns if shape.kind == "dlrm" else _row_and_dense_columns)(shape, split)
    if shape.bottom:
        fixed.set_bottom(_dense_layers("bottom", shape.bottom, parameters, bf16=shape.bf16), split.shared_dense, split.candidate_dense)
    if shape.kind == "deepfm":
        fixed.set_scales(_array(parameters["scales"]))
    weight, bias = _array(parameters["head.weight"]), _array(parameters["head.bias"])
    if shape.cross:
        weight = _set_cross(fixed, shape, parameters, [*shared, *candidate])
    after_cross = bool(shape.cross) and not shape.is_parallel  # whose outputs differ between candidates
    if after_cross:
        shared, candidate = [], [*shared, *candidate]
    if shape.experts is not None:
        _set_experts(fixed, shape, parameters, shared, candidate)
        return fixed
    head: list[_Layer] = [(weight, bias, False, False)]
    if stacks := tower_stacks(shape, parameters, [*shared, *candidate]):
        fixed.set_top(head, [], range(weight.shape[1]), stacks)
    else:
        in_stacks = any(layer.atom not in (None, "neuron") for layer in shape.tower)  # where they learnt
        layers = _dense_layers("tower", shape.tower, parameters, bf16=shape.sparse_bf16 if in_stacks else shape.bf16) + head
        weight, bias, relu, bf16 = layers[0]
        layers[0] = padded_columns(shape, weight), bias, relu, bf16
        fixed.set_top(layers, shared, candidate, [])
    return fixed


def _set_experts(
    fixed: _core.FixedModel, shape: ModelShape, parameters: Parameters, shared: Sequence[int], candidate: Sequence[int]
) -> None:
    """Set gates and experts, of inputs in the order of `shared`, then `candidate`. The head is the last layer of each expert."""
    assert shape.experts is not None
    gating = Gating.at(shape.experts, from_digits(parameters["experts.gates.learnt"].tolist()))
    kept = gating.num_experts, gating.num_slots, gating.kept
    weight, bias = padded_columns(shape, parameters["experts.gates.weight"]), _array(parameters["experts.gates.bias"])
    head = _array(parameters["head.weight"]), np.zeros(shape.num_tasks, np.float32), False, False
    in_stacks = any(layer.atom not in (None, "neuron") for layer in shape.tower)
    experts: list[tuple[list[_Layer], list[_core.TowerStack]]] = []
    for prefix in shape.tower_prefixes:
        stacks = tower_stacks(shape, parameters, [*shared, *candidate], prefix)
        layers: list[_Layer] = [head]
        if not stacks:
            layers = _dense_layers(prefix, shape.tower, parameters, bf16=shape.sparse_bf16 if in_stacks else shape.bf16) + layers
            first, *others = layers
            layers = [(padded_columns(shape, first[0]), *first[1:]), *others]
        experts.append((layers, stacks))
    gate = "tree" if gating.is_tree else "flat", *kept, gating.temperature, gating.split_width
    fixed.set_experts(gate, [(weight, bias, False, False)], experts, _array(parameters["head.bias"]), shared, candidate)


def _set_cross(fixed: _core.FixedModel, shape: ModelShape, parameters: Parameters, order: Sequence[int]) -> FloatArray:
    """Set the cross layers, for inputs in the `order` of their places, and return the weights of the head for the tower."""
    width, padded = shape.tower_inputs, np.full(shape.num_padded_inputs, shape.tower_inputs, np.int64)
    padded[shape.padded_inputs] = np.arange(width)
    places = padded[list(order)]  # `width` for padding, for which there are zeros

    def placed(array: npt.NDArray[Any], *axes: int) -> FloatArray:
        for axis in axes:
            array = np.pad(array, [(0, int(one == axis)) for one in range(array.ndim)]).take(places, axis)
        return _array(array)

    layers: list[list[_Layer]] = []
    for index, rank in enumerate(shape.cross):
        prefix = f"cross.layers.{index}"
        bias = placed(parameters[f"{prefix}.bias"], 0)
        if rank is None:
            layers.append([(placed(parameters[f"{prefix}.weight"], 0, 1), bias, False, False)])
            continue
        down = placed(parameters[f"{prefix}.down"], 1), np.zeros(rank, np.float32), False, False
        layers.append([down, (placed(parameters[f"{prefix}.up"], 0), bias, False, False)])
    weight = _array(parameters["head.weight"])
    beside: list[_Layer] = []
    if shape.is_parallel:
        beside, weight = [(placed(weight[:, :width], 1), np.zeros(len(weight), np.float32), False, False)], _array(weight[:, width:])
    fixed.set_cross(layers, beside)
    return weight


def whole_input(shape: ModelShape) -> InputSplit:
    """Return the split of inputs of which none is shared."""
    return InputSplit((), tuple(range(shape.num_rows)), (), tuple(range(shape.dense_width)))


def _dense_layers(name: str, shapes: Sequence[LayerShape], parameters: Parameters, *, bf16: bool) -> list[_Layer]:
    """Return the layers of a tower as dense ones."""
    layers: list[_Layer] = []
    for index, shape in enumerate(shapes):
        weight, bias = dense_layer(shape, f"{name}.layers.{index}", parameters)
        layers.append((_array(weight), _array(bias), True, bf16))
    return layers


def _array(parameter: npt.NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(parameter, np.float32)


def _row_columns(rows: Sequence[int], dim: int, start: int = 0) -> list[int]:
    return [start + row * dim + index for row in rows for index in range(dim)]


def _row_and_dense_columns(shape: ModelShape, split: InputSplit) -> tuple[list[int], list[int]]:
    width = shape.num_rows * shape.dim
    shared = _row_columns(split.shared_features, shape.dim) + [width + column for column in split.shared_dense]
    candidate = _row_columns(split.candidate_features, shape.dim) + [width + column for column in split.candidate_dense]
    return shared, candidate


def _dlrm_columns(shape: ModelShape, split: InputSplit) -> tuple[list[int], list[int]]:
    """Return the columns of rows, then of dot products: row by row, with the shared rows and with the rows before it."""
    bottom = [shape.num_rows] if shape.bottom else []
    is_shared = not split.candidate_dense
    shared_rows = [*split.shared_features, *(bottom if is_shared else [])]
    own_rows = [*split.candidate_features, *([] if is_shared else bottom)]
    num_rows = shape.num_rows + len(bottom)
    num_pairs = num_rows * (num_rows - 1) // 2

    def pair(one: int, other: int) -> int:
        first, second = min(one, other), max(one, other)
        return first * num_rows - first * (first + 1) // 2 + second - first - 1

    shared = _row_columns(shared_rows, shape.dim, num_pairs)
    shared += [pair(row, before) for place, row in enumerate(shared_rows) for before in shared_rows[:place]]
    own = _row_columns(own_rows, shape.dim, num_pairs)
    own += [pair(row, other) for place, row in enumerate(own_rows) for other in [*shared_rows, *own_rows[:place]]]
    return shared, own
