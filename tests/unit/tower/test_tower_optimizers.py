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
        _core.tower_adam([ours], [3 * gradients], [m], [v], [steps], 0.01, 0.8, 0.95, 1e-6, 3.0)
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
    _core.tower_adam([values], [gradients], [m], [v], [steps], 0.01, 0.9, 0.999, 1e-8, 1.0)
    for k in range(40):
        rows = [array[k : k + 1].copy() for array in alone]
        _core.tower_adam(*([row] for row in rows), [np.full(1, counts[k], np.uint32)], 0.01, 0.9, 0.999, 1e-8, 1.0)
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
        _core.tower_adagrad([ours], [3 * gradients], [state], 0.05, 1e-8, 3.0)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 32768, 100_003])
def test_a_whole_parameter_has_one_count_on_any_number_of_threads(size: int) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(2, 1, size)).astype(np.float32)
    results = []
    for threads in (1, 2):
        _core.set_num_threads(threads)
        values, m, v, steps = start.copy(), np.zeros_like(start), np.zeros_like(start), np.zeros(1, np.uint32)
        for _ in range(3):
            _core.tower_adam([values], [gradients], [m], [v], [steps], 0.01, 0.9, 0.999, 1e-8, 1.0)
        assert steps[0] == 3
        results.append(values)
    np.testing.assert_array_equal(*results)
    # Equal gradients: every step is as long as the rate.
    np.testing.assert_allclose(results[0], start - 0.03 * np.sign(gradients), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 16), (3000, 16), (777, 1), (5, 48)])
def test_taylor_sums_what_the_loss_would_change_by_without_an_atom(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    values, gradients = rng.normal(size=(2, *shape)).astype(np.float32)
    sums = rng.random(shape[0]).astype(np.float32)
    expected = sums + abs((values.astype(np.float64) * gradients).sum(axis=1)) / 256
    _core.tower_taylor([values, values], [gradients, gradients], [sums, sums.copy()], 256.0)
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


def test_shapes_that_differ_are_refused() -> None:
    values, other = np.zeros((3, 16), np.float32), np.zeros((2, 16), np.float32)
    more = [values.copy()]
    with pytest.raises(ValueError, match=r"gradients\[0\] must be \(3, 16\), got \(2, 16\)"):
        _core.tower_adagrad([values], [other], more, 0.1, 1e-8, 1.0)
    with pytest.raises(ValueError, match=r"state must have size 1, got 0"):
        _core.tower_adagrad([values], more, [], 0.1, 1e-8, 1.0)
    with pytest.raises(ValueError, match=r"steps\[0\] must have size 3, got 2"):
        _core.tower_adam([values], more, more, more, [np.zeros(2, np.uint32)], 0.1, 0.9, 0.99, 1e-8, 1.0)
    with pytest.raises(ValueError, match=r"sums\[0\] must have size 3, got 2"):
        _core.tower_taylor([values], more, [np.zeros(2, np.float32)], 1.0)
