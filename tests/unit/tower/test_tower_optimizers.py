"""Adam and Adagrad of live atoms in the core against torch's, and Adam's count of steps for each atom."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monolith_py import _core


@pytest.mark.parametrize("shape", [(1, 16), (5, 16), (3000, 16), (5000, 1), (0, 16)])
def test_adam_steps_as_in_torch(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(size=shape).astype(np.float32)
    theirs = torch.from_numpy(ours.copy()).requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    m, v, steps = np.zeros_like(ours), np.zeros_like(ours), np.zeros(len(ours), np.uint32)
    for step in range(1, 6):
        gradients = rng.normal(size=shape).astype(np.float32)
        theirs.grad = torch.from_numpy(gradients.copy())
        optimizer.step()
        _core.tower_adam(ours, gradients, m, v, steps, 0.01, 0.8, 0.95, 1e-6)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5, atol=2e-6)
        assert (steps == step).all()


def test_adam_corrects_each_atom_by_its_own_count() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 16)).astype(np.float32)
    gradients = rng.normal(size=(40, 16)).astype(np.float32)
    steps = rng.integers(0, 3, 40).astype(np.uint32)
    m, v = np.zeros_like(values), np.zeros_like(values)
    alone = [array.copy() for array in (values, gradients, m, v)]
    counts = steps.copy()
    _core.tower_adam(values, gradients, m, v, steps, 0.01, 0.9, 0.999, 1e-8)
    for k in range(40):
        rows = [array[k : k + 1].copy() for array in alone]
        _core.tower_adam(*rows, np.full(1, counts[k], np.uint32), 0.01, 0.9, 0.999, 1e-8)
        np.testing.assert_array_equal(rows[0], values[k : k + 1])
        t = float(counts[k]) + 1
        g = gradients[k].astype(np.float64)
        expected = alone[0][k] - 0.01 * (0.1 * g / (1 - 0.9**t)) / (np.sqrt(0.001 * g * g / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(values[k], expected, rtol=1e-4)
    np.testing.assert_array_equal(steps, counts + 1)


@pytest.mark.parametrize("shape", [(1, 16), (3000, 16), (50000, 1)])
def test_adagrad_steps_as_in_torch(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    ours = rng.normal(size=shape).astype(np.float32)
    theirs = torch.from_numpy(ours.copy()).requires_grad_()
    optimizer = torch.optim.Adagrad([theirs], lr=0.05, initial_accumulator_value=0.1, eps=1e-8)
    state = np.full_like(ours, 0.1)
    for _ in range(4):
        gradients = rng.normal(size=shape).astype(np.float32)
        theirs.grad = torch.from_numpy(gradients.copy())
        optimizer.step()
        _core.tower_adagrad(ours, gradients, state, 0.05, 1e-8)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_shapes_that_differ_are_refused() -> None:
    values, other = np.zeros((3, 16), np.float32), np.zeros((2, 16), np.float32)
    with pytest.raises(ValueError, match=r"gradients must be \(3, 16\), got \(2, 16\)"):
        _core.tower_adagrad(values, other, values.copy(), 0.1, 1e-8)
    with pytest.raises(ValueError, match="steps must have size 3, got 2"):
        _core.tower_adam(values, values.copy(), values.copy(), values.copy(), np.zeros(2, np.uint32), 0.1, 0.9, 0.99, 1e-8)
