"""Calibration layer: two parameters of each binary task, learnt online from predictions that were made before learning.

The calibrated logit is scale * logit + bias (Platt 1999). Only the served scores depend on it: rows and dense parameters learn from the
logit itself. Letters: B examples, T outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monolith_py.model.link import Link

# A scale outside would be that of a model without use.
_SCALES = (0.2, 5.0)
# Share of the curvature that is added to it: one batch of equal logits tells nothing of the scale.
_RIDGE = 1e-3
# Curvature that `reference_batch` examples add, that of one logit of 0. Far from 0 logits have next to none: without it one surprise among
# them, such as the positive of a rare task, moves the bias by tens.
_CURVATURE = 0.25


class CalibrationRule:
    """Steps of Newton's method on the log loss of each batch, `rate` of one for `reference_batch` examples.

    >>> parameters = torch.tensor([[1.0], [0.0]])
    >>> rule = CalibrationRule(parameters, rate=0.1, reference_batch=2)
    >>> rule.step(torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2))  # no positive where half was expected
    >>> round(parameters[1].item(), 2)
    -0.13
    """

    def __init__(self, parameters: Tensor, rate: float, reference_batch: int, links: Sequence[Link] = ()) -> None:
        """Learn `parameters`, (2, T): scales, then biases; only those of binary tasks, by `links`, change."""
        self._parameters, self._rate, self._reference = parameters, rate, reference_batch
        kinds = [link.kind for link in links for _ in range(link.size)] or ["sigmoid"] * parameters.shape[1]
        self._is_binary = torch.tensor([kind == "sigmoid" for kind in kinds])

    def step(self, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Learn from the logits before calibration and labels, (B, T), with the weight of each example, (B,), 0 for none."""
        scale, bias = self._parameters
        chances = torch.sigmoid(logits * scale + bias)
        slopes = weights[:, None] * (chances - labels)
        bends = weights[:, None] * chances * (1 - chances)
        on_bias, on_scale = slopes.sum(0), (slopes * logits).sum(0)
        of_bias, mixed, of_scale = bends.sum(0), (bends * logits).sum(0), (bends * logits.square()).sum(0)
        share = min(1.0, float(weights.count_nonzero()) / self._reference)
        of_bias, of_scale = of_bias * (1 + _RIDGE), of_scale * (1 + _RIDGE) + _RIDGE * of_bias
        of_bias, of_scale = of_bias + _CURVATURE * share, of_scale + _CURVATURE * share * logits.square().mean(0)
        determinant = of_bias * of_scale - mixed.square()
        rate = self._rate * share
        moves = torch.stack((of_bias * on_scale - mixed * on_bias, of_scale * on_bias - mixed * on_scale)) * rate / determinant
        learns = self._is_binary & torch.isfinite(moves).all(dim=0)
        self._parameters -= torch.where(learns, moves, 0.0)
        self._parameters[0].clamp_(*_SCALES)
