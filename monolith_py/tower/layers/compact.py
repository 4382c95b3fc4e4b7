"""Smallest dense layers equivalent to a sparse tower, for GPUs and other runtimes.

Letters: I inputs and O outputs of a layer, i <= I and o <= O the remaining ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monolith_py.tower.layers.sparse_linear import SparseLinear


class CompactTower(nn.Module):
    """Linear and ReLU layers without unused inputs and outputs.

    An output without a reader in the next layer is removed. An output without an input is constant and is folded into the next layer's
    bias. The last layer keeps all outputs.
    """

    inputs: Tensor  # int64 (i,): the used inputs of the tower

    def __init__(self, layers: Sequence[SparseLinear | nn.Linear]) -> None:
        """Copy the current weights of `layers`."""
        super().__init__()
        weights, biases = zip(*map(_dense, layers), strict=True)
        relus = [getattr(layer, "relu", True) for layer in layers]
        read, kept = _fold(list(weights), list(biases), relus)
        self.register_buffer("inputs", torch.nonzero(read[0]).flatten())
        self.layers = nn.ModuleList()
        self._relus = relus
        for weight, bias, columns, rows in zip(
            weights, kept, read, [*read[1:], torch.ones(len(weights[-1]), dtype=torch.bool)], strict=True
        ):
            layer = nn.Linear(int(columns.sum()), int(rows.sum()), device=weight.device)
            layer.weight = nn.Parameter(weight[rows][:, columns].contiguous(), requires_grad=False)
            layer.bias = nn.Parameter(bias[rows].contiguous(), requires_grad=False)
            self.layers.append(layer)

    @property
    def num_weights(self) -> int:
        """Return the number of weights, without biases."""
        return sum(layer.in_features * layer.out_features for layer in self.layers if isinstance(layer, nn.Linear))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the tower's outputs, (B, I) -> (B, O)."""
        outputs = inputs if len(self.inputs) == inputs.shape[1] else inputs.index_select(1, self.inputs)
        for layer, relu in zip(self.layers, self._relus, strict=True):
            outputs = layer(outputs)
            if relu:
                outputs = torch.relu(outputs)
        return outputs


def _dense(layer: SparseLinear | nn.Linear) -> tuple[Tensor, Tensor]:
    linear = layer.to_linear() if isinstance(layer, SparseLinear) else layer
    return linear.weight.detach().clone(), linear.bias.detach().clone()


def _fold(weights: list[Tensor], biases: list[Tensor], relus: list[bool]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the used inputs of each layer, bool (I,), and the biases with constant outputs folded in, (O,)."""
    read = [(weight != 0).any(dim=0) for weight in weights]
    # Backwards: an output without a reader uses no input itself.
    for index in range(len(weights) - 2, -1, -1):
        read[index] = (weights[index][read[index + 1]] != 0).any(dim=0)
    for index in range(len(weights) - 1):
        constant = ~(weights[index][:, read[index]] != 0).any(dim=1) & read[index + 1]
        values = torch.relu(biases[index]) if relus[index] else biases[index]
        biases[index + 1] = biases[index + 1] + weights[index + 1][:, constant] @ values[constant]
        read[index + 1] = read[index + 1] & ~constant
    return read, biases
