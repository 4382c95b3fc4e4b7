"""Loss of a batch of examples, summed over examples and tasks.

Letters: B examples, T tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from monolith_py.data.examples import ExampleBatch, ExampleKind


class TaskLoss:
    """Binary cross-entropy of every task, weighted, summed over the batch.

    The loss of an example kept with probability r has the weight 1 / r. The expected gradient is that of the whole stream for every task,
    and served probabilities need no correction. (Monolith, arXiv 2209.07663, and Wang et al., arXiv 2110.13048, shift the
    logit by log r instead, which is right for one task only: here an example is sampled by all its labels together.)

    A RETRACTION takes back a negative of weight 1 / r and has the weight 1 of a positive, which is never sampled: its logit gradient is
    (p - y) - p / r for label y. That is -y for r = 1. Together with the negative learnt before it gives p - y, whether that was sampled or
    not: a negative that was sampled away turns positive as a plain example of weight 1.
    """

    def __init__(self, tasks: tuple[str, ...], weights: tuple[float, ...]) -> None:
        self._tasks = tasks
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def labels(self, examples: ExampleBatch) -> Tensor:
        """Return labels, float32 (B, T), tasks in the order of the schema; every task must be in `examples.labels`."""
        return torch.stack([torch.from_numpy(examples.labels[task]) for task in self._tasks], dim=1)

    def __call__(self, logits: Tensor, labels: Tensor, examples: ExampleBatch) -> Tensor:
        """Return the summed loss, a scalar, of logits and labels, float32 (B, T)."""
        weights = self._weights / torch.from_numpy(examples.sample_rates).unsqueeze(1)  # (B, T)
        retractions = examples.kinds == ExampleKind.RETRACTION
        if not retractions.any():
            return binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        losses = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        taken_back = -logits * labels * self._weights + softplus(logits) * (self._weights - weights)
        return torch.where(torch.from_numpy(retractions).unsqueeze(1), taken_back, losses * weights).sum()
