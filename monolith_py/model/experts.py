"""Mixture of experts in the place of a tower: towers side by side, mixed by one gate for each task (MMoE, Ma et al. 2018).

Letters: B rows of the batch, I inputs, O outputs of an expert, T tasks, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from monolith_py.config.experts import ExpertsConfig
from monolith_py.model.gates import Gates
from monolith_py.tower import Tower


class Experts(nn.Module):
    """Towers and gates. An expert computes the rows for which a gate has a weight of it above 0, and no other.

    >>> config = ExpertsConfig(count=4, gate="top_k", top_k=2)
    >>> experts = Experts(8, 2, config, lambda number: Tower(8, [16]))
    >>> experts(torch.rand(3, 8), nn.Linear(16, 2)).shape
    torch.Size([3, 2])

    The tasks' last layers are linear: an expert's output goes through them before the gates, which gives the same logits in T products a
    row instead of O.
    """

    def __init__(self, in_features: int, num_tasks: int, config: ExpertsConfig, make_tower: Callable[[int], Tower]) -> None:
        """`make_tower` returns the tower of an expert, given its number."""
        super().__init__()
        self._config = config
        self.towers = nn.ModuleList(make_tower(number) for number in range(config.count))
        self.gates = Gates(in_features, num_tasks, config)
        # Sums since the last report, of the rows in training: weights (T, E), entropies in nats (T,), experts with a weight (T,).
        self._sums = [torch.zeros(num_tasks, config.count), torch.zeros(num_tasks), torch.zeros(num_tasks)]
        self._num_rows = 0

    @property
    def each(self) -> list[Tower]:
        """Return the towers."""
        return [tower for tower in self.towers if isinstance(tower, Tower)]

    def forward(self, inputs: Tensor, head: nn.Linear, precision: Callable[[], AbstractContextManager[object]] = nullcontext) -> Tensor:
        """Return logits float32 (B, T) of inputs (B, I); `head` maps outputs to logits, `precision` is that of the towers."""
        weights = self.gates(inputs)  # (B, T, E)
        if self.training:
            self._count(weights.detach())
        logits = head.bias.expand(len(inputs), -1)
        for expert, tower in enumerate(self.each):
            own = weights[:, :, expert]  # (B, T)
            rows = (own.detach() != 0).any(dim=1).nonzero().squeeze(1)
            if not len(rows):
                continue
            is_whole = len(rows) == len(inputs)
            with precision():
                outputs = tower(inputs if is_whole else inputs[rows])
            part = outputs.float() @ head.weight.T
            logits = logits + own * part if is_whole else logits.index_add(0, rows, own[rows] * part)
        return logits

    def report(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return, of the rows in training since the last call: mean weights (T, E), mean entropies (T,), mean experts with a weight (T,).

        None if there were none.
        """
        if not self._num_rows:
            return None
        weights, entropies, active = (value / self._num_rows for value in self._sums)
        for value in self._sums:
            value.zero_()
        self._num_rows = 0
        return weights, entropies, active

    def _count(self, weights: Tensor) -> None:
        added = weights.sum(dim=0), -torch.special.xlogy(weights, weights).sum(dim=(0, 2)), (weights != 0).sum(dim=(0, 2))
        self._sums = [value + more for value, more in zip(self._sums, added, strict=True)]
        self._num_rows += len(weights)
