"""Cross layers of DCN-V2 (Wang et al. 2021, section 3.2).

Letters: B rows of the batch, I inputs, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossLayer(nn.Module):
    """One cross layer: x0 * (W x + b) + x, where W is full, (I, I), or of low rank, `up` (I, r) times `down` (r, I)."""

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        if rank is None:
            self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, width)))
        else:
            self.down = nn.Parameter(nn.init.xavier_normal_(torch.empty(rank, width)))
            self.up = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, rank)))
        self._rank = rank

    def forward(self, first: Tensor, inputs: Tensor) -> Tensor:
        """Return the outputs (B, I) from the model's inputs `first` and those of the layer, (B, I)."""
        if self._rank is None:
            return torch.addcmul(inputs, first, nn.functional.linear(inputs, self.weight, self.bias))
        return torch.addcmul(inputs, first, nn.functional.linear(inputs @ self.down.T, self.up, self.bias))


class CrossNetwork(nn.Module):
    """Cross layers one after the other, in float32: their outputs are products of inputs, for which bf16 is coarse.

    >>> CrossNetwork(12, num_layers=2, rank=3)(torch.zeros(5, 12)).shape
    torch.Size([5, 12])
    """

    def __init__(self, width: int, num_layers: int, rank: int | None = None) -> None:
        """Make layers for inputs (B, `width`); `rank`: that of the matrices, None for full ones."""
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(width, rank) for _ in range(num_layers))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the last layer, (B, I)."""
        outputs = inputs
        for layer in self.layers:
            outputs = layer(inputs, outputs)
        return outputs
