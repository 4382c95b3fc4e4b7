"""Bias of a new model from the labels of its first examples.

From a bias of 0 a model predicts 0.5, and the first examples of every row teach it the rate of the task (Lin et al. 2017, section 3.3,
arXiv 1708.02002). Until the first step of the dense optimizer the bias is the logit of the label rate of all examples up to and including
the present batch. It depends on the examples alone, not on their batches.

Letters: B examples, T tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Positives and examples counted before the first one: an unknown rate is 0.1.
_PRIOR = (1.0, 10.0)


class BiasStart:
    """Sums of the labels of the first `num_examples` examples, which set `bias`, float32 (T,).

    >>> start = BiasStart(torch.zeros(1), num_examples=256)
    >>> start.add(torch.tensor([[1.0]] + [[0.0]] * 9), torch.ones(10))
    >>> torch.sigmoid(start.bias).item()
    0.10000000149011612
    """

    def __init__(self, bias: Tensor, num_examples: int) -> None:
        self.bias, self._limit = bias, num_examples
        positives, total = _PRIOR
        self._sums = torch.tensor([0.0, total, *[positives] * len(bias)], dtype=torch.float64)  # examples, weights, positives by task
        self._before: tuple[Tensor, Tensor] | None = None  # sums and bias before the present batch

    def add(self, labels: Tensor, weights: Tensor) -> None:
        """Add a batch, labels (B, T) and weights (B,), and set the bias; no effect after the first `num_examples`."""
        if self._sums[0] >= self._limit:
            self._before = None
            return
        self._before = self._sums, self.bias.detach().clone()
        added = torch.cat((torch.tensor([len(labels)]), weights.sum().reshape(1), weights @ labels))
        self._sums = self._sums + added
        with torch.no_grad():
            self.bias.copy_(torch.logit(self._sums[2:] / self._sums[1]))

    def undo(self) -> None:
        """Take the last batch back, which was not learnt."""
        if self._before is not None:
            self._sums, bias = self._before
            with torch.no_grad():
                self.bias.copy_(bias)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs beside the bias."""
        return {"sums": self._sums}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `state`."""
        self._sums, self._before = tensors["sums"].clone(), None
