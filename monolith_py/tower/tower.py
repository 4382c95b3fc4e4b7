"""A tower: a stack of linear layers with ReLU, dense or sparse.

Letters: B rows of the batch, I inputs, O outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from monolith_py import _core
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.atoms import why_dense
from monolith_py.tower.layers.compact import CompactTower
from monolith_py.tower.layers.core_stack import CoreStack
from monolith_py.tower.layers.prepacked import Prepacked
from monolith_py.tower.layers.sparse_linear import SparseLinear
from monolith_py.tower.rule.density import atom_targets
from monolith_py.tower.rule.masks import first_masks
from monolith_py.tower.rule.schedule import density_at

_logger = logging.getLogger(__name__)

_DENSE = SparsityConfig()


class Tower(nn.Module):
    """Linear, ReLU and optional dropout for each size.

    On a CPU the core computes towers with sparse layers, and dense ones in bf16 if the CPU has a matrix unit (AMX). Torch computes all
    others, including those with the atom "neuron", whose layers are smaller dense ones.

    >>> Tower(8, [16, 4])(torch.zeros(2, 8)).shape
    torch.Size([2, 4])
    >>> Tower(8, [32, 4], sparsity=SparsityConfig(preset="static", density=0.25)).density
    0.25
    """

    def __init__(
        self,
        in_features: int,
        sizes: Sequence[int],
        dropout: float = 0.0,
        *,
        sparsity: SparsityConfig = _DENSE,
        bf16: bool = False,
        seed: int = 0,
        groups: Sequence[int] = (),
    ) -> None:
        """Make layers of the given output sizes; without a size the tower is the identity. `groups`: widths of the features in the inputs.

        Start weights are those of a dense tower under the same state of torch's generator; `seed` draws the first topology. Layers too
        small for the atoms stay dense, with a warning.
        """
        super().__init__()
        self.in_features, self._dropout, self._atom = in_features, dropout, sparsity.atom
        self._bf16 = bf16
        widths = [in_features, *sizes]
        self.out_features = widths[-1]
        dense = [nn.Linear(inputs, outputs) for inputs, outputs in zip(widths[:-1], sizes, strict=True)]
        self.layers: nn.ModuleList = nn.ModuleList(_sparsified(dense, sparsity, seed))
        if self.layers and isinstance(first := self.layers[0], SparseLinear):
            first.input_groups = tuple(groups)
        self._stacks: list[CoreStack] | None = None  # made at the first forward
        self._frozen: list[nn.Module] = []  # in a list: not registered as submodules

    @property
    def sparse_layers(self) -> list[SparseLinear]:
        """Return the sparse layers."""
        return [layer for layer in self.layers if isinstance(layer, SparseLinear)]

    @property
    def _linears(self) -> list[SparseLinear | nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, SparseLinear | nn.Linear)]

    @property
    def num_live_weights(self) -> int:
        """Return the number of live weights, without biases."""
        return sum(layer.num_live_weights if isinstance(layer, SparseLinear) else layer.weight.numel() for layer in self._linears)

    @property
    def density(self) -> float:
        """Return the share of live atoms over the sparse layers; 1 without one."""
        layers = self.sparse_layers
        return sum(layer.num_live for layer in layers) / sum(layer.num_atoms for layer in layers) if layers else 1.0

    @property
    def engine(self) -> str:
        """Return the engine of the tower on this CPU: "torch", "amx", "avx512", "avx2" or "portable"."""
        return self._in_core()[0].engine if self._uses_core() else "torch"

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the last layer's output (B, O); `inputs` (B, w) are concatenated, their widths sum to I.

        More leading dimensions than B are kept.

        Raises:
            ValueError: the widths of the inputs do not sum to I.
        """
        if (width := sum(part.shape[-1] for part in inputs)) != self.in_features:
            raise ValueError(f"inputs must have {self.in_features} columns together, got {width}")
        leading = inputs[0].shape[:-1]
        if len(leading) == 1:
            return self._forward(inputs)
        return self._forward(tuple(part.reshape(-1, part.shape[-1]) for part in inputs)).view(*leading, -1)

    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the last layer's output (B, O)."""
        if not self.layers:
            return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        if inputs[0].device.type == "cpu" and self._uses_core():
            return self._forward_in_core(inputs)
        outputs = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        if self._frozen and not torch.is_grad_enabled():
            frozen: Tensor = self._frozen[0](outputs)
            return frozen
        for layer in self.layers:
            outputs = layer(outputs)
            if not isinstance(layer, SparseLinear):
                outputs = torch.relu(outputs)
            if self._dropout:
                outputs = dropout(outputs, self._dropout, self.training)
        return outputs

    def freeze(self) -> None:
        """Pack the current weights for serving: any thread may call forward without gradients, which ignores later changes.

        Outside the core, a sparse tower becomes a `CompactTower`, and a dense tower on the CPU uses oneDNN's order of weights if that is
        faster.
        """
        self.eval()
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        if on_cpu and self._uses_core():
            for stack in self._in_core():
                stack.freeze()
        elif self.sparse_layers:
            self._frozen = [CompactTower(self._linears)]
        elif on_cpu:
            self._frozen = [nn.Sequential(*(Prepacked(*_dense(layer), bf16=self._bf16) for layer in self._linears))]

    def _uses_core(self) -> bool:
        if self._atom == "neuron" or torch.compiler.is_compiling():
            return False
        if any(parameter.dtype != torch.float32 for parameter in self.parameters()):
            return False
        return bool(self.layers) and (bool(self.sparse_layers) or (self._bf16 and bool(_core.has_amx())))

    def _in_core(self) -> list[CoreStack]:
        """Return one stack for all layers, or with dropout one stack per layer."""
        if self._stacks is None:
            groups = [[layer] for layer in self._linears] if self._dropout else [self._linears]
            self._stacks = [CoreStack(group, self._atom, bf16=self._bf16) for group in groups]
        return self._stacks

    def _forward_in_core(self, inputs: Sequence[Tensor]) -> Tensor:
        for stack in self._in_core():
            outputs = stack.forward(inputs)
            if self._dropout:
                outputs = dropout(outputs, self._dropout, self.training)
            inputs = (outputs,)
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy, without packed weights."""
        return {**self.__dict__, "_stacks": None, "_frozen": []}


def _dense(layer: SparseLinear | nn.Linear) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


def _sparsified(dense: Sequence[nn.Linear], config: SparsityConfig, seed: int) -> list[nn.Module]:
    """Return the layers of the first topology."""
    if config.preset == "dense":
        return list(dense)
    fit = [why_dense(layer.in_features, layer.out_features, config) is None for layer in dense]
    for index, layer in enumerate(dense):
        if reason := why_dense(layer.in_features, layer.out_features, config):
            _logger.warning("layer %d of the tower stays dense: %s", index, reason)
    chosen = [layer for layer, fits in zip(dense, fit, strict=True) if fits]
    if not chosen:
        return list(dense)
    shapes = [(layer.out_features, layer.in_features) for layer in chosen]
    targets = atom_targets(config, shapes, density_at(config, 0))
    grids = [SparseLinear(layer.in_features, layer.out_features, config.atom).grid for layer in chosen]
    masks = iter(first_masks(config, grids, targets, np.random.default_rng(seed)))
    layers: list[nn.Module] = []
    for layer, fits in zip(dense, fit, strict=True):
        if not fits:
            layers.append(layer)
            continue
        mask = next(masks)
        sparse = SparseLinear.of(layer, mask, config.atom, relu=True)
        if config.init_scale:
            sparse.values.data *= (mask.size / mask.sum()) ** 0.5
        layers.append(sparse)
    return layers
