"""Layers of a tower in the core: one call for forward, one for backward.

Letters: B rows of the batch, I and O inputs and outputs of a layer, h weights of an atom, k live atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monolith_py import _core
from monolith_py.config.sparsity import Atom
from monolith_py.tower.layers.sparse_linear import SparseLinear, atoms_of, weight_of

Layer = SparseLinear | nn.Linear
_HEIGHTS = {"16x1": 16, "1x1": 1}


class CoreStack:
    """Layers of a tower in the core, each followed by ReLU, except a `SparseLinear` with `relu` False.

    Several threads may call `forward` of a frozen stack; before `freeze` only one may.
    """

    def __init__(self, layers: Sequence[Layer], atom: Atom, *, bf16: bool) -> None:
        self._layers, self._atom, self._bf16 = tuple(layers), atom, bf16
        shapes = [(layer.in_features, layer.out_features, getattr(layer, "relu", True)) for layer in layers]
        self._core = _core.TowerStack(shapes, _HEIGHTS[atom], bf16)
        self._topology_versions: list[int | None] = [None] * len(layers)  # of the loaded topologies
        self._frozen = False
        self._num_loads = 0

    @property
    def engine(self) -> str:
        """Return "amx", "avx512", "avx2" or "portable"."""
        return str(self._core.engine)

    @property
    def core(self) -> _core.TowerStack:
        """Return the stack of the core."""
        return self._core

    def freeze(self) -> None:
        """Pack the current weights; forward without gradients ignores later changes."""
        self._load([_parameter(layer) for layer in self._layers], [_bias(layer) for layer in self._layers])
        self._frozen = True

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the last layer's outputs, float32 (B, O); `inputs`, float32 (B, w), are concatenated.

        As with torch's layers, a graph may hold several forwards, and run backward more than once if it is retained.
        """
        parts = [part.float().contiguous() for part in inputs]
        parameters = [tensor for layer in self._layers for tensor in (_parameter(layer), _bias(layer))]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*parts, *parameters)):
            outputs: Tensor = _Run.apply(self, len(parts), *parts, *parameters)
            return outputs
        if not self._frozen:
            self._load(parameters[::2], parameters[1::2])
        return self._compute(parts, None)

    def _compute(self, parts: Sequence[Tensor], tape_owner: Any) -> Tensor:
        outputs = torch.empty(len(parts[0]), self._layers[-1].out_features)
        arrays = [part.detach().numpy() for part in parts]
        if tape_owner is None:
            self._core.forward(arrays, outputs.numpy())
        else:
            tape_owner.tape, tape_owner.load = self._core.forward_tape(arrays, outputs.numpy()), self._num_loads
        return outputs

    def _load(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        for index, layer in enumerate(self._layers):
            topology_version = int(layer.topology_version) if isinstance(layer, SparseLinear) else 0
            if self._topology_versions[index] != topology_version:
                self._core.set_topology(index, *_topology(layer, _HEIGHTS[self._atom]))
                self._topology_versions[index] = topology_version
        values = [self._to_atoms(layer, weight.detach()).numpy() for layer, weight in zip(self._layers, weights, strict=True)]
        self._core.load(values, [bias.detach().numpy() for bias in biases])
        self._num_loads += 1

    def _to_atoms(self, layer: Layer, weight: Tensor) -> Tensor:
        """Return the weights of a layer in the order of the core, (k, h)."""
        if isinstance(layer, SparseLinear):
            return weight
        atoms = atoms_of(weight, self._atom)
        return atoms.reshape(-1, atoms.shape[2]).contiguous()

    def _from_atoms(self, layer: Layer, gradient: Tensor) -> Tensor:
        """Return the gradient (k, h) in the shape of the layer's weights."""
        if isinstance(layer, SparseLinear):
            return gradient
        atoms = gradient.view(-1, layer.in_features, gradient.shape[1])
        return weight_of(atoms, layer.in_features, layer.out_features, self._atom)


class _Run(torch.autograd.Function):
    """Forward and backward of all layers, joined by a tape of the core."""

    @staticmethod
    def forward(ctx: Any, stack: CoreStack, num_parts: int, *tensors: Tensor) -> Tensor:
        parts, parameters = tensors[:num_parts], tensors[num_parts:]
        ctx.stack, ctx.widths, ctx.needs = stack, [part.shape[1] for part in parts], [part.requires_grad for part in parts]
        ctx.save_for_backward(*tensors)  # the tape refers to the parts; the parameters may be loaded again
        stack._load(parameters[::2], parameters[1::2])
        ctx.versions = list(stack._topology_versions)
        return stack._compute(parts, ctx)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        stack: CoreStack = ctx.stack
        saved = ctx.saved_tensors  # raises if a part or parameter has changed since forward
        if ctx.tape is None or ctx.load != stack._num_loads:
            _record_again(ctx, saved)
        gradient = gradients[0].float().contiguous()
        parts = [torch.empty(len(gradient), width) if needs else None for width, needs in zip(ctx.widths, ctx.needs, strict=True)]
        height = _HEIGHTS[stack._atom]
        values = [torch.empty(_num_live(layer, height), height) for layer in stack._layers]
        biases = [torch.empty(layer.out_features) for layer in stack._layers]
        totals = _gradient_sums(stack._layers, height)
        if isinstance(first := stack._layers[0], SparseLinear):
            first.add_squares(saved[: len(ctx.widths)])
        stack._core.backward(
            ctx.tape,
            gradient.numpy(),
            [None if part is None else part.numpy() for part in parts],
            [value.numpy() for value in values],
            [bias.numpy() for bias in biases],
            None if totals is None else [total.numpy() for total in totals],
        )
        ctx.tape = None
        weights = [stack._from_atoms(layer, value) for layer, value in zip(stack._layers, values, strict=True)]
        return (None, None, *parts, *(tensor for pair in zip(weights, biases, strict=True) for tensor in pair))


def _record_again(ctx: Any, saved: Sequence[Tensor]) -> None:
    """Make the tape of a forward again, after another load or a backward.

    Raises:
        RuntimeError: the topology has changed since the forward.
    """
    stack: CoreStack = ctx.stack
    num_parts = len(ctx.widths)
    parts, parameters = saved[:num_parts], saved[num_parts:]
    if ctx.versions != [int(layer.topology_version) if isinstance(layer, SparseLinear) else 0 for layer in stack._layers]:
        raise RuntimeError("the topology of a sparse layer has changed between forward and backward: call forward again")
    stack._load(parameters[::2], parameters[1::2])
    stack._compute(parts, ctx)


def _parameter(layer: Layer) -> Tensor:
    return layer.values if isinstance(layer, SparseLinear) else layer.weight


def _bias(layer: Layer) -> Tensor:
    return layer.bias


def _num_live(layer: Layer, height: int) -> int:
    if isinstance(layer, SparseLinear):
        return layer.num_live
    return -(-layer.out_features // height) * layer.in_features


def _gradient_sums(layers: Sequence[Layer], height: int) -> list[Tensor] | None:
    """Return the buffers for gradients of all atoms, (blocks, I, h) for each layer; None if no layer collects them."""
    sums = [layer.gradient_sum if isinstance(layer, SparseLinear) else None for layer in layers]
    if all(total is None for total in sums):
        return None
    return [
        torch.zeros(-(-layer.out_features // height), layer.in_features, height) if total is None else total
        for layer, total in zip(layers, sums, strict=True)
    ]


def _topology(layer: Layer, height: int) -> tuple[Any, Any]:
    """Return bounds int32 (blocks + 1,) and columns int32 (k,); in a dense layer all atoms live."""
    if isinstance(layer, SparseLinear):
        return layer.bounds.numpy(), layer.columns.numpy()
    blocks, inputs = -(-layer.out_features // height), layer.in_features
    bounds = np.arange(blocks + 1, dtype=np.int32) * np.int32(inputs)
    return bounds, np.tile(np.arange(inputs, dtype=np.int32), blocks)
