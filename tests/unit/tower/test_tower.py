"""The dense tower against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import Tower


def random_inputs(width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(width).normal(size=(6, width)).astype(np.float32))


@pytest.mark.parametrize("sizes", [[4], [16, 8], [8, 1, 8]], ids=str)
def test_each_layer_is_linear_then_relu(sizes: list[int]) -> None:
    tower, inputs = Tower(5, sizes), random_inputs(5)
    expected = inputs.numpy()
    state = {name: value.numpy() for name, value in tower.state_dict().items()}
    for index in range(len(sizes)):
        expected = np.maximum(expected @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"], 0)
    np.testing.assert_allclose(tower(inputs).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert tower.out_features == sizes[-1]


def test_no_layer_makes_the_identity() -> None:
    tower, inputs = Tower(5, []), random_inputs(5)
    assert tower.out_features == 5
    assert torch.equal(tower(inputs), inputs)


def test_dropout_works_in_training_alone_and_keeps_the_mean() -> None:
    tower, inputs = Tower(64, [512], dropout=0.25), random_inputs(64)
    kept = tower.eval()(inputs)
    assert torch.equal(tower(inputs), kept)
    torch.manual_seed(0)
    dropped = tower.train()(inputs)
    alive = kept > 0
    zeroed = (dropped == 0)[alive].float().mean().item()
    assert zeroed == pytest.approx(0.25, abs=0.05)
    survived = alive & (dropped != 0)
    torch.testing.assert_close(dropped[survived], kept[survived] / 0.75)


@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_of_a_large_input_are_those_of_its_halves(bf16: bool) -> None:
    torch.manual_seed(0)
    tower = Tower(256, [32, 16], sparsity=SparsityConfig(preset="static", density=0.2), bf16=bf16)
    inputs, pull = torch.randn(4200, 256), torch.randn(4200, 16)  # past the size that is written around the cache; its halves are not

    def gradient(rows: slice) -> torch.Tensor:
        part = inputs[rows].clone().requires_grad_()
        tower(part).backward(pull[rows])
        assert part.grad is not None
        return part.grad

    halves = torch.cat((gradient(slice(0, 2112)), gradient(slice(2112, 4200))))
    assert torch.equal(gradient(slice(0, 4200)), halves)


@pytest.mark.parametrize("bf16", [False, True])
def test_inputs_that_change_before_backward_are_refused(bf16: bool) -> None:
    tower = Tower(32, (16,), sparsity=SparsityConfig(preset="static", density=0.5), bf16=bf16)
    inputs = torch.ones(4, 32, requires_grad=True) + 0
    outputs = tower(inputs)
    inputs.detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()
