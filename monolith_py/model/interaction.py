"""Feature interaction of pooled rows: the factorization machine of DeepFM and the dot products of DLRM.

For float32 on the CPU both run in the core, in float32 also under autocast; for other devices and dtypes in torch.

Letters: B rows of the batch, F features, D a feature's dim, P = F (F - 1) / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from monolith_py import _core


def first_order(rows: Tensor) -> Tensor:
    """Return the sum of the features' first-order weights, (B, F, D) -> (B,); component 0 of a row is its first-order weight."""
    return rows[:, :, 0].sum(dim=1)


def factorization(rows: Tensor) -> Tensor:
    """Return the sum of dot products of the factors, components 1 to D - 1, over all pairs of features, (B, F, D) -> (B,).

    Rendle 2010, equation 5: half of (square of the sum - sum of the squares).
    """
    factors = rows[:, :, 1:]
    total = factors.sum(dim=1)  # (B, D - 1)
    return 0.5 * (total.square().sum(dim=1) - factors.square().sum(dim=(1, 2)))


def factorize(pooled: Tensor, num_features: int) -> tuple[Tensor, Tensor]:
    """Return the first-order and pairwise terms, (B, F * D) -> (B, 2), and the pooled rows.

    Use the returned rows for all further computation: backward then sums both gradients in one pass over memory.
    """
    if not _runs_in_core(pooled, num_features):
        rows = pooled.view(len(pooled), num_features, -1)  # (B, F, D)
        return torch.stack((first_order(rows), factorization(rows)), dim=1), pooled
    terms, beside = _FusedInteraction.apply(pooled, num_features, 2, _core.factorize, _core.factorize_backward)
    return terms, beside


def pairwise_dots(pooled: Tensor, num_features: int) -> tuple[Tensor, Tensor]:
    """Return the dot products of all pairs of features, (B, F * D) -> (B, P), and the pooled rows, as `factorize`.

    The order of the pairs is (0, 1), (0, 2) ... (1, 2) ... (Naumov et al. 2019, section 2.1).
    """
    num_pairs = num_features * (num_features - 1) // 2
    if not _runs_in_core(pooled, num_features):
        rows = pooled.view(len(pooled), num_features, -1)  # (B, F, D)
        first, second = torch.triu_indices(num_features, num_features, offset=1, device=pooled.device)
        return torch.bmm(rows, rows.transpose(1, 2))[:, first, second], pooled
    core = _core.pairwise_dots, _core.pairwise_dots_backward
    dots, beside = _FusedInteraction.apply(pooled, num_features, num_pairs, *core)
    return dots, beside


def _runs_in_core(pooled: Tensor, num_features: int) -> bool:
    return pooled.device.type == "cpu" and pooled.dtype == torch.float32 and pooled.shape[1] // num_features % 4 == 0


class _FusedInteraction(torch.autograd.Function):
    """Interaction by `forward_core`; it returns the rows too, so that backward gets both gradients at once."""

    @staticmethod
    def forward(
        ctx: Any,
        pooled: Tensor,
        num_features: int,
        width: int,
        forward_core: Callable[..., None],
        backward_core: Callable[..., None],
    ) -> tuple[Tensor, Tensor]:
        rows = pooled.detach().contiguous()
        outputs = torch.empty(len(rows), width)
        forward_core(rows.numpy(), num_features, outputs.numpy())
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(pooled)
        ctx.num_features, ctx.backward_core = num_features, backward_core
        return outputs, pooled.view_as(pooled)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        of_outputs, beside = gradients
        if of_outputs is None:
            return beside, None, None, None, None
        rows = ctx.saved_tensors[0].detach().contiguous()
        if beside is not None and beside.stride(1) != 1:
            beside = beside.contiguous()
        gradient = torch.empty_like(rows)
        given = None if beside is None else beside.numpy()
        ctx.backward_core(rows.numpy(), ctx.num_features, of_outputs.contiguous().numpy(), given, gradient.numpy())
        return gradient, None, None, None, None
