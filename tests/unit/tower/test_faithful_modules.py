"""Tower, TopologyUpdater and AtomOptimizer under the preset `dsl` learn as the published rule does, restated here in plain torch.

Dynamic Sparse Learning, Wang et al. 2024: masked dense weights, Adam with dense moments; every dT steps, after the optimizer's, the least
|w| go and as many of the greatest |gradient| of this batch come, from 0. Its Bernoulli masks are replaced by the tower's first ones, and
equal scores go by place; ours keeps an atom of each output, which no swap here would take away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, TopologyUpdater, Tower

EVERY, DENSITY, LR, SIZES = 7, 0.5, 0.002, (64, 48, 32)
STEPS = 11 * EVERY  # of the cosine; ten swaps are compared
CONFIG = SparsityConfig(preset="dsl", density=DENSITY, update_interval=EVERY, cosine_steps=STEPS)


class Published:
    """The published rule on masked dense layers with ReLU."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor], masks: list[Tensor]) -> None:
        self.weights, self.biases, self.masks = weights, biases, masks
        self.adam = torch.optim.Adam([*weights, *biases], lr=LR)

    def step(self, number: int, inputs: Tensor, labels: Tensor) -> None:
        self.adam.zero_grad()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            inputs = torch.relu(inputs @ weight.T + bias)
        ((inputs - labels) ** 2).sum(dim=1).mean().backward()
        self.adam.step()
        with torch.no_grad():
            for index, (weight, mask) in enumerate(zip(self.weights, self.masks, strict=True)):
                weight *= mask
                if number % EVERY == 0:
                    a = 0.005 + (0.5 - 0.005) * (1 + math.cos(math.pi * number / STEPS)) / 2
                    self.masks[index] = self.swapped(weight, mask, math.ceil(a * int(mask.sum())))
                    weight *= self.masks[index]

    def swapped(self, weight: Tensor, mask: Tensor, count: int) -> Tensor:
        alive, gradient = mask.flatten().clone(), weight.grad.abs().flatten()
        alive[weight.abs().flatten().masked_fill(~alive, torch.inf).argsort(stable=True)[:count]] = False
        alive[gradient.masked_fill(alive, -1.0).argsort(stable=True, descending=True)[:count]] = True
        return alive.view(mask.shape)


class Ours:
    """The same training on the tower's own modules."""

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self.atoms = AtomOptimizer(tower.sparse_layers, AtomRule(), CONFIG.newborn)
        self.updater = TopologyUpdater(tower.sparse_layers, self.atoms, CONFIG, seed=0)
        self.whole = ParameterOptimizer({str(index): layer.bias for index, layer in enumerate(tower.sparse_layers)}, AtomRule())

    def step(self, inputs: Tensor, labels: Tensor) -> bool:
        for parameter in self.tower.parameters():
            parameter.grad = None
        self.updater.before_backward()
        loss = ((self.tower(inputs) - labels) ** 2).sum()
        loss.backward()
        self.updater.after_backward(len(inputs))
        self.whole.step(LR, len(inputs))
        self.atoms.step(LR, len(inputs))
        return self.updater.after_step(loss.item() / len(inputs), len(inputs))


def trainings() -> tuple[Published, Ours]:
    """Return both at the same weights and masks."""
    torch.manual_seed(2022)
    dense = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(SIZES)]
    torch.manual_seed(2022)
    tower = Tower(SIZES[0], SIZES[1:], sparsity=CONFIG, seed=2019)
    masks = [torch.from_numpy(layer.live) for layer in tower.sparse_layers]
    weights = [(layer.weight.detach() * mask).requires_grad_() for layer, mask in zip(dense, masks, strict=True)]
    assert all(torch.equal(layer.weight(), weight) for layer, weight in zip(tower.sparse_layers, weights, strict=True))
    return Published(weights, [layer.bias.detach().clone().requires_grad_() for layer in dense], masks), Ours(tower)


def batches() -> Iterator[tuple[int, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    teacher = torch.randn(SIZES[0], SIZES[-1], generator=generator)
    for number in range(1, 10 * EVERY + 1):
        inputs = torch.randn(64, SIZES[0], generator=generator)
        yield number, inputs, 1 + torch.sin(inputs @ teacher)  # above 0: outputs of ReLU that are always 0 would have no gradient


def test_ten_swaps_of_the_modules_choose_the_masks_of_the_published_rule() -> None:
    published, ours = trainings()
    num_moved = []
    for number, inputs, labels in batches():
        before = [mask.clone() for mask in published.masks]
        published.step(number, inputs, labels)
        assert ours.step(inputs, labels) == (number % EVERY == 0)
        for layer, mask, weight in zip(ours.tower.sparse_layers, published.masks, published.weights, strict=True):
            np.testing.assert_array_equal(layer.live, mask.numpy(), err_msg=f"step {number}")
            torch.testing.assert_close(layer.weight(), weight, rtol=1e-3, atol=1e-5)
        if number % EVERY == 0:
            num_moved.append(sum(int((mask & ~old).sum()) for mask, old in zip(published.masks, before, strict=True)))
    assert len(num_moved) == 10 and min(num_moved) > 0
    # Atoms of the first masks have gone and come in numbers: equal masks are no accident of a topology that stays.
    assert sum(num_moved) > 200
