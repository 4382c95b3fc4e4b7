"""Layers of a tower with fixed weights: as dense arrays, and as stacks of the core for sparse ones.

Letters: I inputs and O outputs of a layer, h weights of an atom, k live atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.model.shape import LayerShape, ModelShape, Parameters
from monolith_py.tower.layers.atoms import MAX_INPUTS, Indices, csr_of, height_of

_Array = npt.NDArray[Any]


def dense_layer(shape: LayerShape, prefix: str, parameters: Parameters) -> tuple[_Array, _Array]:
    """Return weights (O, I) and biases (O,) of a layer, zero at dead atoms; a dead neuron has no bias either."""
    bias = parameters[f"{prefix}.bias"]
    if shape.atom is None:
        return parameters[f"{prefix}.weight"], bias
    atoms, live = _atoms(shape, prefix, parameters)
    if shape.atom == "neuron":
        return atoms[0], np.where(live[0], bias, np.float32(0))
    return atoms.transpose(0, 2, 1).reshape(-1, shape.inputs)[: shape.outputs], bias


def padded_columns(shape: ModelShape, weight: _Array) -> _Array:
    """Return weights (O, I) of the first layer over the inputs with padded rows, zero for the padding."""
    padded = np.zeros((len(weight), shape.num_padded_inputs), np.float32)
    padded[:, shape.padded_inputs] = weight
    return padded


def tower_stacks(shape: ModelShape, parameters: Parameters, order: Sequence[int], prefix: str = "tower") -> list[_core.TowerStack]:
    """Return stacks of the core for use one after the other; none for a tower without a sparse layer, of neurons, or of too many inputs.

    Input k of the first one is input `order[k]` of the tower with padded rows. With padding these may be more than the `MAX_INPUTS` of a
    stack, also if the inputs in training are not. With dropout each layer has a stack, as in training. `prefix`: of the tower's parameters.
    """
    atom = next((layer.atom for layer in shape.tower if layer.atom is not None), None)
    if atom is None or atom == "neuron" or len(order) > MAX_INPUTS:
        return []
    height = height_of(atom)
    inputs = np.full(shape.num_padded_inputs, -1, np.int64)
    inputs[shape.padded_inputs] = np.arange(shape.tower_inputs)
    loaded = [
        _core_layer(layer, f"{prefix}.layers.{index}", parameters, height, inputs[list(order)] if index == 0 else None)
        for index, layer in enumerate(shape.tower)
    ]
    biases = [np.ascontiguousarray(parameters[f"{prefix}.layers.{place}.bias"]) for place in range(len(loaded))]
    groups = [[place] for place in range(len(loaded))] if shape.has_dropout else [list(range(len(loaded)))]
    stacks = []
    for group in groups:
        widths = [len(order) if place == 0 else shape.tower[place].inputs for place in group]
        sizes = [(width, shape.tower[place].outputs, True) for width, place in zip(widths, group, strict=True)]
        stack = _core.TowerStack(sizes, height, shape.sparse_bf16)
        for index, place in enumerate(group):
            stack.set_topology(index, *loaded[place][:2])
        stack.load([loaded[place][2] for place in group], [biases[place] for place in group])
        stacks.append(stack)
    return stacks


def _core_layer(
    shape: LayerShape, prefix: str, parameters: Parameters, height: int, order: npt.NDArray[np.int64] | None
) -> tuple[Indices, Indices, _Array]:
    """Return bounds (blocks + 1,), columns (k,) and values (k, h) of a layer; in a dense one all atoms live.

    `order`: the input at each place, -1 for padding; None for all in their order.
    """
    if shape.atom is None:
        weight = parameters[f"{prefix}.weight"]  # (O, I)
        blocks = -(-shape.outputs // height)
        padded = np.zeros((blocks * height, shape.inputs), np.float32)
        padded[: shape.outputs] = weight
        atoms = padded.reshape(blocks, height, shape.inputs).transpose(0, 2, 1)  # (blocks, I, h)
        live = np.ones((blocks, shape.inputs), np.bool_)
    else:
        atoms, live = _atoms(shape, prefix, parameters)
    if order is not None:
        atoms, live = atoms[:, order], live[:, order] & (order >= 0)
    bounds, columns = csr_of(live)
    return bounds, columns, np.ascontiguousarray(atoms[live])


def _atoms(shape: LayerShape, prefix: str, parameters: Parameters) -> tuple[_Array, npt.NDArray[np.bool_]]:
    """Return all atoms of a sparse layer (blocks, places, h), dead ones zero, and the mask of the live ones (blocks, places)."""
    blocks, places, height = shape.atoms
    bounds, columns = parameters[f"{prefix}.bounds"], parameters[f"{prefix}.columns"]
    block = np.repeat(np.arange(blocks), np.diff(bounds))
    atoms = np.zeros((blocks, places, height), np.float32)
    live = np.zeros((blocks, places), np.bool_)
    atoms[block, columns], live[block, columns] = parameters[f"{prefix}.values"], True
    return atoms, live
