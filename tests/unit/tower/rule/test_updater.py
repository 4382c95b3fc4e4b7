"""TopologyUpdater of a tower in training: density, scores, history, and restoring of a saved state."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monolith_py.config.sparsity import Preset, SparsityConfig
from monolith_py.tower import AtomOptimizer, AtomRule, TopologyUpdater, Tower
from monolith_py.tower.rule.density import atom_targets
from monolith_py.tower.rule.schedule import density_at

WIDTH, BATCH = 40, 64


class Learner:
    """A tower that learns which inputs matter; batches are a function of their number."""

    def __init__(self, config: SparsityConfig, sizes: tuple[int, ...] = (48, 32)) -> None:
        torch.manual_seed(0)
        self.config = config
        self.tower = Tower(WIDTH, sizes, sparsity=config)
        self.head = nn.Linear(sizes[-1], 1)
        layers = self.tower.sparse_layers
        self.atoms = AtomOptimizer(layers, AtomRule(), config.newborn)
        self.updater = TopologyUpdater(layers, self.atoms, config, seed=0)

    def step(self, number: int, spoil: bool = False) -> bool:
        generator = torch.Generator().manual_seed(number)
        inputs = torch.randn(BATCH, WIDTH, generator=generator)
        labels = (inputs[:, :3].sum(dim=1) > 0).float()
        if spoil:
            inputs[0, 0] = torch.nan
        self.updater.before_backward()
        for parameter in [*self.tower.parameters(), *self.head.parameters()]:
            parameter.grad = None
        loss = binary_cross_entropy_with_logits(self.head(self.tower(inputs)).squeeze(1), labels, reduction="sum")
        loss.backward()
        if not torch.isfinite(loss):
            return False
        self.updater.after_backward(BATCH)
        self.atoms.step(0.01, BATCH)
        return self.updater.after_step(loss.item() / BATCH, BATCH)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.tower.state_dict().items()}


def presets(**more: Any) -> list[SparsityConfig]:
    """Return every preset at a pace of its own."""
    quick: dict[str, Any] = {"update_interval": 4, **more}
    return [
        SparsityConfig(preset="set", **quick),
        SparsityConfig(preset="rigl", cosine_steps=60, **quick),
        SparsityConfig(preset="dsl", cosine_steps=60, **quick),
        SparsityConfig(preset="dsl_online", ramp=(4, 20), **quick),
        SparsityConfig(preset="dsl_online", scope="model", ramp=(4, 20), **quick),
        SparsityConfig(preset="gmp", ramp=(4, 20), **quick),
        SparsityConfig(preset="gmp", atom="neuron", ramp=(4, 20), **quick),
        SparsityConfig(preset="dsl_online", atom="neuron", grow_criterion="random", ramp=(4, 20), **quick),
        SparsityConfig(preset="nm", ramp=(4, 20), **quick),
    ]


def name_of(config: SparsityConfig) -> str:
    return f"{config.preset}-{config.atom}-{config.scope}"


@pytest.mark.parametrize("config", presets(), ids=name_of)
def test_the_budget_is_exact_at_every_step(config: SparsityConfig) -> None:
    learner = Learner(config)
    shapes = [(layer.out_features, layer.in_features) for layer in learner.tower.sparse_layers]
    density, moved = density_at(config, 0), 0
    for number in range(1, 41):
        if learner.step(number):
            density, moved = density_at(config, number), moved + 1
        counts = [layer.num_live for layer in learner.tower.sparse_layers]
        assert sum(counts) == sum(atom_targets(config, shapes, density))
        for layer in learner.tower.sparse_layers:
            assert np.atleast_2d(layer.live).any(axis=1).all()
            state = learner.atoms.state()
            assert all(len(state[f"{index}.step"]) == count for index, count in enumerate(counts))
    assert moved >= 4
    assert learner.updater.history.num_swaps == moved
    assert learner.updater.history.live_atoms == counts


@pytest.mark.parametrize("config", presets(), ids=name_of)
@pytest.mark.parametrize("stop", [14, 15])
def test_a_saved_state_goes_on_to_the_bit_in_the_middle_of_a_period(config: SparsityConfig, stop: int) -> None:
    calm, first, second = Learner(config), Learner(config), Learner(config)
    for number in range(1, 41):
        calm.step(number)
    for number in range(1, stop + 1):
        first.step(number)
    second.tower.load_state_dict(first.weights())
    second.head.load_state_dict(copy.deepcopy(first.head.state_dict()))
    second.atoms.restore({name: value.clone() for name, value in first.atoms.state().items()})
    second.updater.restore({name: value.clone() for name, value in first.updater.state().items()})
    for number in range(stop + 1, 41):
        second.step(number)
    assert calm.weights().keys() == second.weights().keys()
    for name, value in calm.weights().items():
        assert torch.equal(value, second.weights()[name]), name
    for name, value in calm.updater.state().items():
        assert torch.equal(value, second.updater.state()[name]), name


def test_a_poisoned_batch_leaves_no_trace_in_the_scores() -> None:
    config = SparsityConfig(preset="dsl_online", update_interval=4, ramp=(4, 8), score_batches=3)
    calm, spoiled = Learner(config), Learner(config)
    for number in range(1, 31):
        calm.step(number)
        spoiled.step(number + 1000, spoil=True)
        spoiled.step(number)
    for name, value in calm.weights().items():
        assert torch.equal(value, spoiled.weights()[name]), name


def test_swaps_find_the_inputs_that_matter() -> None:
    config = SparsityConfig(preset="dsl_online", update_interval=10, ramp=(10, 100), density=0.1)
    learner = Learner(config)
    for number in range(1, 1500):
        learner.step(number)
    first = learner.tower.sparse_layers[0]
    assert first.live[:, :3].mean() > 0.9  # of 40 inputs 3 matter, and a tenth of the atoms may live
    static = Learner(SparsityConfig(preset="static", density=0.1))
    assert static.tower.sparse_layers[0].live[:, :3].mean() < 0.5


@pytest.mark.parametrize("preset", ["set", "dsl"])
def test_neurons_grow_and_learn(preset: Preset) -> None:
    """A dead neuron gets no gradient under ReLU, so it grows at random; a newborn one gets its gradient by its bias."""
    config = SparsityConfig(preset=preset, atom="neuron", grow_criterion="random", update_interval=10, density=0.3)
    learner = Learner(config)
    layer = learner.tower.sparse_layers[0]
    newborn, num_newborn, num_learnt = np.zeros_like(layer.live), 0, 0
    for number in range(1, 200):
        before = layer.live
        if learner.step(number):
            newborn = layer.live & ~before
        elif number % 10 == 9:  # just before the next swap
            has_weights = (layer.weight().detach() != 0).any(dim=1).numpy()
            num_newborn, num_learnt = num_newborn + newborn.sum(), num_learnt + (newborn & has_weights).sum()
    assert num_newborn >= 20 and num_learnt == num_newborn


def test_drift_starts_swaps_anew() -> None:
    config = SparsityConfig(preset="dsl_online", update_interval=10, ramp=(10, 100), cosine_steps=200)
    learner = Learner(config)
    layers = learner.tower.sparse_layers
    for number in range(1, 700):
        for layer in layers:
            layer.values.grad = torch.zeros_like(layer.values)
        learner.updater.before_backward()
        learner.updater.after_backward(BATCH)
        rng = np.random.default_rng(number)
        learner.updater.after_step((0.5 if number < 600 else 0.9) + 0.02 * rng.standard_normal(), BATCH * 4)
    _, since_armed = learner.updater.state()["steps"].tolist()
    assert since_armed < 100
