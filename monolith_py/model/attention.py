"""Attention over sequence features: each row of a sequence is weighed by the row of a target feature (DIN, Zhou et al. 2018).

Letters: B rows of the batch, L rows of a sequence, D the dim of a row, P sum of the dims of the pooled rows, R the same with one row for
each attended sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from monolith_py.model.attention_shape import AttentionShape


class Attention(nn.Module):
    """The activation unit of DIN, section 4.3: a weight for each row of a sequence, from target, row, difference and product.

    Weights are not normalized, as in the paper: their sum is the strength of the interest. A place without a row reads zeros, and so adds
    nothing and learns nothing: no mask is needed. Hidden layers have ReLU; the paper's Dice needs statistics of the batch.

    >>> Attention(8, [16])(torch.rand(3, 5, 8), torch.rand(3, 8)).shape
    torch.Size([3, 8])
    """

    def __init__(self, dim: int, hidden: Sequence[int]) -> None:
        """Make the layers for rows of `dim` weights."""
        super().__init__()
        widths = [4 * dim, *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, rows: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of the rows, (B, L, D) and (B, D) -> (B, D)."""
        weights = self.weights(rows, target)  # (B, L, 1)
        return (weights * rows).sum(dim=1)

    def weights(self, rows: Tensor, target: Tensor) -> Tensor:
        """Return the weight of each row, (B, L, 1)."""
        first, *others = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        of_target, of_row, of_difference, of_product = first.weight.chunk(4, dim=1)  # (O, D) each
        # The difference is linear in target and row: two products of (L, D) instead of four.
        outputs = linear(rows, of_row - of_difference) + linear(rows * target.unsqueeze(1), of_product)
        outputs = outputs + linear(target, of_target + of_difference, first.bias).unsqueeze(1)
        for layer in others:
            outputs = layer(torch.relu(outputs))
        return outputs


class SequenceAttention(nn.Module):
    """Attention over all sequences of a schema that have one."""

    def __init__(self, shapes: Sequence[AttentionShape]) -> None:
        super().__init__()
        self._shapes = tuple(shapes)
        for shape in shapes:
            self.add_module(f"of_{shape.name}", Attention(shape.dim, shape.hidden))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return pooled rows with one row in the place of each attended sequence, (B, P) -> (B, R)."""
        parts, done = [], 0
        for shape in self._shapes:
            end = shape.start + shape.length * shape.dim
            rows = pooled[:, shape.start : end].reshape(-1, shape.length, shape.dim)
            target = pooled[:, shape.target : shape.target + shape.dim]
            parts += [pooled[:, done : shape.start], self.get_submodule(f"of_{shape.name}")(rows, target)]
            done = end
        return torch.cat([*parts, pooled[:, done:]], dim=1)
