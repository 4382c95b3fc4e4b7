"""The optimizer of atoms against torch's, one atom at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from monolith_py.tower import AtomOptimizer, AtomRule, ParameterOptimizer, SparseLinear
from monolith_py.tower.optimizer import Newborn

LR = 0.01


def make_layer(live: np.ndarray) -> SparseLinear:
    torch.manual_seed(0)
    return SparseLinear.of(nn.Linear(live.shape[1], 16 * live.shape[0]), live)


def move(layer: SparseLinear, optimizer: AtomOptimizer, new: np.ndarray) -> torch.Tensor:
    """Bring layer and optimizer to another topology; return where the newborns are."""
    old = layer.live
    places = np.full(old.shape, -1, np.int64)
    places[old] = np.arange(old.sum())
    sources = torch.from_numpy(places[new])
    values = layer.values.detach()[sources.clamp(min=0)]
    values[sources < 0] = 0
    layer.place(new, values)
    optimizer.place(0, sources, torch.from_numpy(np.flatnonzero(new & ~old)))
    return sources < 0


@pytest.mark.parametrize(
    ("kind", "rival"),
    [
        ("sgd", lambda p: torch.optim.SGD([p], lr=LR)),
        ("adagrad", lambda p: torch.optim.Adagrad([p], lr=LR, eps=1e-8)),
        ("adam", lambda p: torch.optim.Adam([p], lr=LR)),
    ],
)
def test_steps_are_those_of_torch(kind: str, rival: Callable[[nn.Parameter], torch.optim.Optimizer]) -> None:
    layer = make_layer(np.random.default_rng(0).random((3, 9)) < 0.5)
    mirror, whole = nn.Parameter(layer.values.detach().clone()), nn.Parameter(layer.values.detach().clone())
    rule = AtomRule(kind)  # type: ignore[arg-type]
    atoms, parameters, theirs = AtomOptimizer([layer], rule), ParameterOptimizer({"whole": whole}, rule), rival(mirror)
    for _ in range(20):
        gradient = torch.randn_like(mirror)
        layer.values.grad, whole.grad, mirror.grad = 256 * gradient, 256 * gradient, gradient
        atoms.step(LR, 256.0)
        parameters.step(LR, 256.0)
        theirs.step()
    torch.testing.assert_close(layer.values, mirror, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(whole, mirror, rtol=1e-5, atol=1e-7)


def test_a_parameter_without_a_gradient_stays_and_does_not_count() -> None:
    parameters = {name: nn.Parameter(torch.ones(2, 3)) for name in ("idle", "busy")}
    optimizer = ParameterOptimizer(parameters, AtomRule())
    parameters["busy"].grad = torch.ones(2, 3)
    optimizer.step(LR)
    assert torch.equal(parameters["idle"], torch.ones(2, 3)) and bool((parameters["busy"] < 1).all())
    assert [optimizer.state()[f"step.{name}"].item() for name in parameters] == [0, 1]


@pytest.mark.parametrize("newborn", ["count", "reset", "seed"])
def test_a_newborn_starts_as_its_policy_says(newborn: Newborn) -> None:
    layer = make_layer(np.array([[True, True, False, True]]))
    optimizer = AtomOptimizer([layer], AtomRule(), newborn)
    for _ in range(50):
        layer.values.grad = torch.full_like(layer.values, 2.0)
        optimizer.step(LR)
    seconds = optimizer.state()["0.exp_avg_sq"].clone()
    born = move(layer, optimizer, np.array([[True, False, True, True]]))
    assert born.tolist() == [False, True, False]
    kept = optimizer.state()
    assert kept["0.step"].tolist() == [50, 0 if newborn == "count" else 50, 50]
    torch.testing.assert_close(kept["0.exp_avg_sq"][[0, 2]], seconds[[0, 2]], rtol=0, atol=0)
    assert torch.all(kept["0.exp_avg_sq"][1] == (seconds.mean() if newborn == "seed" else 0))
    before = layer.values.detach().clone()
    layer.values.grad = torch.full_like(layer.values, 2.0)
    optimizer.step(LR)
    step = (before - layer.values.detach())[1, 0].item()
    # First steps: one rate with a count of its own; 0.1 / sqrt(0.001) = 3.16 rates, corrected for 51 steps, under the layer's.
    m, v = 0.2 / (1 - 0.9**51), (0.004 + 0.999 * (seconds.mean().item() if newborn == "seed" else 0)) / (1 - 0.999**51)
    assert step == pytest.approx(LR if newborn == "count" else LR * m / v**0.5, rel=1e-4)


def test_a_warm_newborn_has_the_moments_it_kept_while_it_was_dead() -> None:
    layer = make_layer(np.array([[True, False, True]]))
    optimizer = AtomOptimizer([layer], AtomRule(), "warm")
    mirror = nn.Parameter(torch.zeros(3, 16))
    rival = torch.optim.Adam([mirror], lr=LR)
    for _ in range(10):
        gradient = torch.randn(1, 3, 16)
        layer.gradient_sum, mirror.grad = gradient, gradient[0].clone()
        layer.values.grad = gradient[0, [0, 2]].clone()
        optimizer.step(LR)
        rival.step()
    move(layer, optimizer, np.array([[True, True, False]]))
    torch.testing.assert_close(optimizer.state()["0.exp_avg"], rival.state[mirror]["exp_avg"][:2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(optimizer.state()["0.exp_avg_sq"], rival.state[mirror]["exp_avg_sq"][:2], rtol=1e-4, atol=1e-6)
    assert optimizer.state()["0.step"].tolist() == [10, 10]


def test_state_of_other_layers_is_refused() -> None:
    optimizer = AtomOptimizer([make_layer(np.ones((1, 3), np.bool_))], AtomRule())
    state = AtomOptimizer([make_layer(np.ones((1, 4), np.bool_))], AtomRule()).state()
    with pytest.raises(ValueError, match=r"0\.exp_avg must be \(3, 16\) torch.float32, got \(4, 16\) torch.float32"):
        optimizer.restore(state)


def test_state_of_other_parameters_is_refused() -> None:
    state = ParameterOptimizer({"a": torch.zeros(3)}, AtomRule()).state()
    with pytest.raises(ValueError, match=r"exp_avg\.a must be \(1, 4\) torch.float32, got \(1, 3\) torch.float32"):
        ParameterOptimizer({"a": torch.zeros(4)}, AtomRule()).restore(state)
    with pytest.raises(ValueError, match=r"exp_avg\.b must be \(1, 3\) torch.float32, got none"):
        ParameterOptimizer({"b": torch.zeros(3)}, AtomRule()).restore(state)
