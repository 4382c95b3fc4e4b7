"""Dense layers that compute what a sparse tower does, as small as its topology lets them be: for GPUs and other runtimes.

Letters: I inputs and O outputs of a layer, i <= I and o <= O those that are left.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monolith_py.tower.layers.sparse_linear import SparseLinear


class CompactTower(nn.Module):
    """Linear and ReLU over the inputs that are read, with the outputs that matter.

    An output that no atom of the next layer reads is left out. One that reads nothing is the same for all inputs: it goes into the next
    layer's bias. The last layer keeps all outputs.
    """

    inputs: Tensor  # int64 (i,): the tower's inputs that are read

    def __init__(self, layers: Sequence[SparseLinear | nn.Linear]) -> None:
        """Take the weights that the layers have now."""
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
        """Return how many weights are left, biases not counted."""
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
    """Return which inputs of each layer are read, bool (I,), and the biases with what is constant folded in, (O,)."""
    read = [(weight != 0).any(dim=0) for weight in weights]
    # Backwards, as an output that nobody reads reads nothing itself.
    for index in range(len(weights) - 2, -1, -1):
        read[index] = (weights[index][read[index + 1]] != 0).any(dim=0)
    for index in range(len(weights) - 1):
        constant = ~(weights[index][:, read[index]] != 0).any(dim=1) & read[index + 1]
        values = torch.relu(biases[index]) if relus[index] else biases[index]
        biases[index + 1] = biases[index + 1] + weights[index + 1][:, constant] @ values[constant]
        read[index + 1] = read[index + 1] & ~constant
    return read, biases
