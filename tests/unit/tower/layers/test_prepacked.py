"""Towers packed for serving against the same towers unpacked."""

from __future__ import annotations

import copy

import pytest
import torch

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import Tower
from monolith_py.tower.layers.prepacked import Prepacked


@pytest.mark.parametrize("batch", [0, 1, 7, 8, 65, 600])
def test_prepacked_layers_are_linear_and_relu(batch: int) -> None:
    weight, bias, inputs = torch.randn(24, 33), torch.randn(24), torch.randn(batch, 33)
    with torch.inference_mode():
        outputs = Prepacked(weight, bias, bf16=False)(inputs)
    torch.testing.assert_close(outputs, torch.relu(inputs @ weight.T + bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sparsity",
    [
        SparsityConfig(),
        SparsityConfig(preset="static", density=0.3),
        SparsityConfig(preset="static", density=0.3, atom="1x1"),
        SparsityConfig(preset="static", density=0.3, atom="neuron"),
    ],
    ids=lambda config: f"{config.preset}-{config.atom}",
)
def test_a_frozen_tower_gives_the_same_and_keeps_its_weights(sparsity: SparsityConfig) -> None:
    torch.manual_seed(0)
    tower, inputs = Tower(40, [64, 32], sparsity=sparsity), torch.randn(50, 40)
    expected = tower(inputs).detach()
    frozen = copy.deepcopy(tower)
    frozen.freeze()
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.zero_()
        torch.testing.assert_close(frozen(inputs), expected, rtol=1e-4, atol=1e-5)
    again = copy.deepcopy(frozen)
    assert torch.count_nonzero(again(inputs)) == 0  # a copy begins anew
    assert torch.equal(tower(inputs).detach(), expected)
