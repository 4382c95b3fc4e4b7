"""How pooled rows meet: the factorization machine of DeepFM and the dot products of DLRM.

Letters: B rows of the batch, F features, D a feature's dim.
"""

from __future__ import annotations

import torch
from torch import Tensor


def first_order(rows: Tensor) -> Tensor:
    """Return the sum of the features' first-order weights, (B, F, D) -> (B,); component 0 of a row is its first-order weight."""
    return rows[:, :, 0].sum(dim=1)


def factorization(rows: Tensor) -> Tensor:
    """Return the sum of dot products over all pairs of features, (B, F, D) -> (B,), of the factors: components 1 to D - 1.

    Rendle 2010, equation 5: half of (square of the sum - sum of the squares).
    """
    factors = rows[:, :, 1:]
    total = factors.sum(dim=1)  # (B, D - 1)
    return 0.5 * (total.square().sum(dim=1) - factors.square().sum(dim=(1, 2)))


def pairwise_dots(rows: Tensor, pairs: Tensor) -> Tensor:
    """Return the dot products of the pairs of features, (B, F, D) and int64 (2, P) -> (B, P) (Naumov et al. 2019, section 2.1)."""
    products = torch.bmm(rows, rows.transpose(1, 2))  # (B, F, F)
    return products[:, pairs[0], pairs[1]]
