"""The dense tower: a stack of linear layers with ReLU. Sparse layers will stand behind the same class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Tower(nn.Module):
    """Linear and ReLU, once for each size; dropout after each where asked for.

    >>> import torch
    >>> Tower(8, [16, 4])(torch.zeros(2, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(self, in_features: int, sizes: Sequence[int], dropout: float = 0.0) -> None:
        """Make layers of the given output sizes; no size makes the identity."""
        super().__init__()
        layers: list[nn.Module] = []
        for size in sizes:
            layers += [nn.Linear(in_features, size), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            in_features = size
        self.layers = nn.Sequential(*layers)
        self.out_features = in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the last layer's output, (B, in_features) -> (B, out_features)."""
        outputs: Tensor = self.layers(inputs)
        return outputs
