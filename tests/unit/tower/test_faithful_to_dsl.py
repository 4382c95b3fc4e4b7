"""The preset `dsl` makes the masks of the rule as published, restated here without any of our code.

Dynamic Sparse Learning, Wang et al. 2024: dense gradients at the masked weights, Adam with dense moments, a Bernoulli mask to start with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.atoms import Mask, height_of
from monolith_py.tower.rule.masks import choose_by
from monolith_py.tower.rule.schedule import drop_fraction_at, is_due
from monolith_py.tower.rule.topology import ScoredLayer

Array = NDArray[np.float64]
EVERY, STEPS, DENSITY, SIZES = 7, 77, 0.5, (24, 32, 12)
CONFIG = SparsityConfig(preset="dsl", update_interval=EVERY, cosine_steps=STEPS)


@dataclass
class Training:
    """A net of two masked dense layers, tanh between, and its Adam."""

    weights: list[Array]
    masks: list[Mask]
    gradients: list[Array] = field(default_factory=list)
    moments: list[list[Array]] = field(default_factory=list)

    def step(self, number: int, inputs: Array, labels: Array) -> None:
        """Adam on the squared error, with dense gradients and moments; then the masks."""
        hidden = np.tanh(inputs @ self.weights[0].T)
        error = hidden @ self.weights[1].T - labels
        back = (error @ self.weights[1]) * (1 - hidden**2)
        self.gradients = [back.T @ inputs / len(inputs), error.T @ hidden / len(inputs)]
        self.moments = self.moments or [[np.zeros_like(weight), np.zeros_like(weight)] for weight in self.weights]
        for weight, gradient, (first, second), mask in zip(self.weights, self.gradients, self.moments, self.masks, strict=True):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            weight -= 0.01 * (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
            weight *= mask


def start() -> Training:
    generator = np.random.default_rng(2022)
    weights = [generator.normal(0, inputs**-0.5, (outputs, inputs)) for inputs, outputs in pairwise(SIZES)]
    masks = [generator.random(weight.shape) < DENSITY for weight in weights]
    return Training([weight * mask for weight, mask in zip(weights, masks, strict=True)], masks)


def published(training: Training, step: int) -> list[Mask]:
    """Every dT steps drop ceil(a nnz) of the least |w|, grow as many of the dead, those included, with the greatest |g| of this batch."""
    if step % EVERY:
        return training.masks
    a = 0.005 + (0.5 - 0.005) * (1 + math.cos(math.pi * step / STEPS)) / 2
    masks = []
    for weight, gradient, mask in zip(training.weights, training.gradients, training.masks, strict=True):
        after = mask.ravel().copy()
        live = np.flatnonzero(after)
        count = math.ceil(a * len(live))
        size = np.abs(weight.ravel()[live])
        assert len(np.unique(size)) == len(size)  # else the published code drops all that equal the threshold
        after[live[np.argsort(size)[:count]]] = False
        dead = np.flatnonzero(~after)
        after[dead[np.argsort(-np.abs(gradient.ravel()[dead]))[:count]]] = True
        masks.append(after.reshape(mask.shape))
    return masks


def sums(values: Array) -> Array:
    """Return the sum of |values| over each atom, blocks of rows."""
    return np.add.reduceat(np.abs(values), np.arange(0, len(values), height_of(CONFIG.atom)), axis=0)


def ours(training: Training, step: int) -> list[Mask]:
    if not is_due(CONFIG, step, step):
        return training.masks
    layers = [
        ScoredLayer(mask, sums(weight), sums(gradient))
        for mask, weight, gradient in zip(training.masks, training.weights, training.gradients, strict=True)
    ]
    return choose_by(CONFIG, layers, [int(mask.sum()) for mask in training.masks], drop_fraction_at(CONFIG, step))


def train(rule: Callable[[Training, int], list[Mask]]) -> tuple[Training, list[list[Mask]]]:
    """Train a copy under the rule; return it and the masks after each of the 10 swaps."""
    generator, training, swaps = np.random.default_rng(2019), start(), []
    teacher = generator.normal(size=(SIZES[0], SIZES[-1]))
    for step in range(1, 10 * EVERY + 1):
        inputs = generator.normal(size=(32, SIZES[0]))
        training.step(step, inputs, np.sin(inputs @ teacher))
        training.masks = rule(training, step)
        training.weights = [weight * mask for weight, mask in zip(training.weights, training.masks, strict=True)]
        if step % EVERY == 0:
            swaps.append(training.masks)
    return training, swaps


def test_ten_swaps_of_the_same_training_choose_the_same_masks() -> None:
    seen: list[tuple[int, int]] = []

    def both(training: Training, step: int) -> list[Mask]:
        expected, got = published(training, step), ours(training, step)
        assert all(np.array_equal(one, two) for one, two in zip(expected, got, strict=True)), step
        if step % EVERY == 0:
            moved = sum(int((after & ~before).sum()) for after, before in zip(got, training.masks, strict=True))
            allowed = sum(math.ceil(drop_fraction_at(CONFIG, step) * mask.sum()) for mask in training.masks)
            seen.append((moved, allowed))
        return got

    train(both)
    assert len(seen) == 10
    # Every swap moves some atoms, and fewer than it drops: the others come straight back.
    assert all(moved > 0 for moved, _ in seen) and any(moved < allowed for moved, allowed in seen)


def test_two_trainings_of_their_own_end_with_the_same_masks_and_weights() -> None:
    (one, expected), (two, got) = train(published), train(ours)
    assert len(expected) == 10
    for swap, (masks, others) in enumerate(zip(expected, got, strict=True)):
        assert all(np.array_equal(mask, other) for mask, other in zip(masks, others, strict=True)), swap
    assert all(np.array_equal(weight, other) for weight, other in zip(one.weights, two.weights, strict=True))
