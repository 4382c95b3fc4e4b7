"""The dense tower against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
