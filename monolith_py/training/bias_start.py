"""Bias of a new model from the labels of its first examples.

From a bias of 0 a model predicts 0.5, and the first examples of every row teach it the rate of the task (Lin et al. 2017, section 3.3,
arXiv 1708.02002). Until the first step of the dense optimizer the bias is the logit of the label rate of all examples up to and including
the present batch. It depends on the examples alone, not on their batches.

Letters: B examples, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monolith_py.model.link import Link

# Positives and examples counted before the first one: an unknown rate is 0.1.
_PRIOR = (1.0, 10.0)
UNKNOWN_RATE = _PRIOR[0] / _PRIOR[1]


class BiasStart:
    """Sums of the labels of the first `num_examples` examples, which set `bias`, float32 (T,).

    >>> start = BiasStart(torch.zeros(1), num_examples=256)
    >>> start.add(torch.tensor([[1.0]] + [[0.0]] * 9), torch.ones(10))
    >>> torch.sigmoid(start.bias).item()
    0.10000000149011612
    """

    def __init__(self, bias: Tensor, num_examples: int, links: Sequence[Link] = ()) -> None:
        """Set `bias` from now on; `links`: those of the outputs unless all are binary."""
        self.bias, self._limit, self._links = bias, num_examples, links
        positives, total = _PRIOR
        self._sums = torch.tensor([0.0, total, *[positives] * len(bias)], dtype=torch.float64)  # examples, weights, positives by task
        self._is_over = False
        self._before: tuple[Tensor, Tensor] | None = None  # sums and bias before the present batch

    def add(self, labels: Tensor, sample_rates: Tensor) -> None:
        """Add a batch and set the bias; no effect after the first `num_examples`.

        Labels (B, T), those of a regression on its scale; sample rates (B,).
        """
        self._before = None
        if self._is_over:
            return
        weights = 1.0 / sample_rates
        self._before = self._sums, self.bias.detach().clone()
        added = torch.cat((torch.tensor([len(labels)]), weights.sum().reshape(1), weights @ labels))
        self._sums = self._sums + added
        self._is_over = bool(self._sums[0] >= self._limit)
        with torch.no_grad():
            self.bias.copy_(self._bias())

    def _bias(self) -> Tensor:
        """Return the outputs for the mean of each label: a logit, that of a class to none of them, or the mean itself."""
        total, sums = self._sums[1], self._sums[2:]
        bias, place = torch.logit(sums / total), 0
        for kind, size in self._links:
            part = sums[place : place + size]
            if kind == "softmax":
                bias[place : place + size] = torch.log(part / (total - part.sum()).clamp(min=_PRIOR[0]))
            elif kind != "sigmoid":
                bias[place : place + size] = part / total
            place += size
        return bias

    def undo(self) -> None:
        """Take the last batch back, which was not learnt."""
        if self._before is not None:
            self._sums, bias = self._before
            self._is_over, self._before = False, None
            with torch.no_grad():
                self.bias.copy_(bias)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs beside the bias."""
        return {"sums": self._sums}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore the result of `state`."""
        self._sums, self._before = tensors["sums"].clone(), None
        self._is_over = bool(self._sums[0] >= self._limit)
