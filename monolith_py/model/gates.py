"""Gates of a mixture of experts: a weight of each expert for each task of an example.

Letters: B rows of the batch, I inputs, T tasks, E experts, S trees of a gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from monolith_py.config.experts import ExpertsConfig
from monolith_py.model.gating import Gating, from_digits, to_digits

_TINY = 1e-12  # least argument of a logarithm, for the gradient of x log x at 0


class Gates(nn.Module):
    """One gate for each task: linear scores of the inputs, and their weights by the method of `ExpertsConfig.gate`.

    >>> gates = Gates(8, 2, ExpertsConfig(count=4, gate="top_k", top_k=2))
    >>> (gates(torch.rand(3, 8)) > 0).sum(dim=2).tolist()
    [[2, 2], [2, 2], [2, 2]]
    """

    weight: Tensor  # (T * scores of a task, I)
    bias: Tensor
    learnt: Tensor  # examples up to the end of the ramp, as digits

    def __init__(self, in_features: int, num_tasks: int, config: ExpertsConfig) -> None:
        """Draw the start values from torch's generator; those of "random" stay."""
        super().__init__()
        self._config, self._num_tasks = config, num_tasks
        scores = nn.Linear(in_features, num_tasks * Gating.at(config, 0).num_scores)
        if config.gate == "random":
            self.register_buffer("weight", scores.weight.detach())
            self.register_buffer("bias", torch.zeros_like(scores.bias))
        else:
            self.weight, self.bias = scores.weight, scores.bias
        self.register_buffer("learnt", torch.tensor(to_digits(0)))
        self._gating = Gating.at(config, 0)
        self._penalty: Tensor | None = None

    @property
    def gating(self) -> Gating:
        """Return the present shape of the gates."""
        return self._gating

    def advance(self, num_examples: int) -> None:
        """Count learnt examples, which make the gates sparse."""
        before = from_digits(self.learnt.tolist())
        if before < self._config.ramp_examples:
            self.learnt.copy_(torch.tensor(to_digits(min(before + num_examples, self._config.ramp_examples))))
            self._set_gating()

    def resume(self, learnt: Tensor) -> None:
        """Set the count of learnt examples to that of saved gates."""
        self.learnt.copy_(learnt)
        self._set_gating()

    def take_penalty(self) -> Tensor | None:
        """Return the auxiliary loss of the last forward in training, summed over its rows; None without one."""
        penalty, self._penalty = self._penalty, None
        return penalty

    def forward(self, inputs: Tensor) -> Tensor:
        """Return weights float32 (B, T, E) of inputs (B, I); those of a task sum to 1."""
        gating, config = self._gating, self._config
        scores = linear(inputs.float(), self.weight, self.bias).view(len(inputs), self._num_tasks, -1)
        entropy = None
        if gating.is_tree:
            weights, leaves = _tree_weights(scores, gating)
            if config.entropy:
                entropy = -(leaves * torch.log(leaves.clamp(min=_TINY))).sum(dim=3).mean(dim=(1, 2)).sum()
        else:
            weights = torch.softmax(_keep_greatest(scores, gating.kept, -torch.inf) / gating.temperature, dim=2)
        if self.training and torch.is_grad_enabled():
            self._penalty = None if entropy is None else config.entropy * entropy
            if config.balance:
                uneven = gating.num_experts * weights.mean(dim=0).square().sum(dim=1) - 1  # (T,)
                balance = config.balance * len(inputs) * uneven.mean()
                self._penalty = balance if self._penalty is None else self._penalty + balance
        return weights

    def _set_gating(self) -> None:
        self._gating = Gating.at(self._config, from_digits(self.learnt.tolist()))

    def _load_from_state_dict(self, *args: object, **options: object) -> None:
        super()._load_from_state_dict(*args, **options)
        self._set_gating()


def _tree_weights(scores: Tensor, gating: Gating) -> tuple[Tensor, Tensor]:
    """Return weights (B, T, E) and the probabilities of all leaves (B, T, S, E) of the trees' scores (B, T, S * (2 E - 1)).

    A leaf has the probability of the path to it, and exp(score) as its value; an expert's weight is the share of its leaves in the sum of
    probability times value over all trees (Ibrahim et al. 2023, section 3.2; there without the limit to the greatest leaves).
    """
    size = gating.num_experts
    scores = scores.view(*scores.shape[:2], gating.num_slots, 2 * size - 1)  # (B, T, S, 2 E - 1)
    values = scores[..., size - 1 :]
    leaves = torch.ones_like(scores[..., :1])
    level = 1
    while level < size:
        left = _smooth_step(scores[..., level - 1 : 2 * level - 1], gating.split_width)
        leaves = torch.stack((leaves * left, leaves * (1 - left)), dim=4).flatten(3)
        level *= 2
    kept = _keep_greatest(leaves, gating.kept, 0.0)
    greatest = values.detach().masked_fill(kept == 0, -torch.inf).amax(dim=(2, 3), keepdim=True)
    mass = (kept * torch.exp((values - greatest).clamp(max=0))).sum(dim=2)  # (B, T, E)
    return mass / mass.sum(dim=2, keepdim=True), leaves


def _smooth_step(values: Tensor, width: float) -> Tensor:
    """Return 0 and 1 outside of `width` around 0, and a cubic polynomial in it (Hazimeh et al. 2020, equation 5)."""
    at = (values / width).clamp(-0.5, 0.5)
    return at * (1.5 - 2 * at.square()) + 0.5


def _keep_greatest(values: Tensor, kept: int, absent: float) -> Tensor:
    """Return `values` (..., E) with all but the `kept` greatest of a row set to `absent`; of equal ones the first are kept."""
    if kept >= values.shape[-1]:
        return values
    order = torch.argsort(values.detach(), dim=-1, descending=True, stable=True)
    return values.masked_fill(torch.zeros_like(values, dtype=torch.bool).scatter_(-1, order[..., kept:], True), absent)
