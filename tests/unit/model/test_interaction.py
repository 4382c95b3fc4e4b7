"""Feature interaction against sums over pairs in float64: terms, dots and gradients, in the core and in torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monolith_py import _core
from monolith_py.model.interaction import factorization, factorize, first_order, pairwise_dots

Float64Array = npt.NDArray[np.float64]
Meet = Callable[[Tensor, int], tuple[Tensor, Tensor]]
SHAPES = [(1, 1, 4), (3, 2, 4), (5, 7, 16)]
MEETINGS = [factorize, pairwise_dots]


def expected_outputs(meet: Meet, rows: Float64Array) -> Float64Array:
    """Outputs by definition, of rows (B, F, D)."""
    first, second = (list(side) for side in zip(*combinations(range(rows.shape[1]), 2), strict=True)) if rows.shape[1] > 1 else ([], [])
    if meet is factorize:
        return np.stack([rows[:, :, 0].sum(1), (rows[:, first, 1:] * rows[:, second, 1:]).sum((1, 2))], axis=1)
    return np.asarray((rows[:, first] * rows[:, second]).sum(2))


def expected_gradient(meet: Meet, rows: Float64Array, given: Float64Array) -> Float64Array:
    """The gradient of sum(outputs * given), pair by pair."""
    gradient = np.zeros_like(rows)
    if meet is factorize:
        gradient[:, :, 0] = given[:, :1]
    for place, (f, g) in enumerate(combinations(range(rows.shape[1]), 2)):
        weight, first = (given[:, 1:], 1) if meet is factorize else (given[:, place, None], 0)
        gradient[:, f, first:] += weight * rows[:, g, first:]
        gradient[:, g, first:] += weight * rows[:, f, first:]
    return gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_terms_are_sums_of_components_0_and_of_the_dots_of_all_pairs_without_them(shape: tuple[int, int, int]) -> None:
    rows = np.random.default_rng(sum(shape)).normal(size=shape)
    terms = torch.stack((first_order(torch.from_numpy(rows)), factorization(torch.from_numpy(rows))), dim=1)
    np.testing.assert_allclose(terms, expected_outputs(factorize, rows), atol=1e-10)


@pytest.mark.parametrize("level", _core.simd_levels())
@pytest.mark.parametrize("meet", MEETINGS)
@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 35), st.sampled_from([4, 8, 12, 16, 24, 32, 48, 64])),
    scale=st.sampled_from([1e-6, 0.01, 1.0, 300.0]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
    apart=st.booleans(),
)
def test_the_core_agrees_with_float64(
    meet: Meet, level: str, shape: tuple[int, int, int], scale: float, threads: int, seed: int, apart: bool
) -> None:
    _core.set_simd_level(level)
    _core.set_num_threads(threads)
    generator = np.random.default_rng(seed)
    pooled = torch.from_numpy(generator.normal(0, scale, (shape[0], shape[1] * shape[2])).astype(np.float32)).requires_grad_()
    rows = pooled.detach().numpy().astype(np.float64).reshape(shape)
    outputs, beside = meet(pooled, shape[1])
    expected = expected_outputs(meet, rows)
    np.testing.assert_allclose(outputs.detach(), expected, atol=1e-5 * scale * max(scale, 1) * shape[1] * shape[2], rtol=1e-5)
    np.testing.assert_array_equal(beside.detach(), pooled.detach())

    given_outputs = generator.normal(size=expected.shape).astype(np.float32)
    width = pooled.shape[1] + (3 if apart else 0)  # what a concatenation of wider parts sends back lies apart
    given_beside = torch.from_numpy(generator.normal(size=(shape[0], width)).astype(np.float32))[:, : pooled.shape[1]]
    before = given_beside.clone()
    torch.autograd.backward([outputs, beside], [torch.from_numpy(given_outputs), given_beside])
    gradient = expected_gradient(meet, rows, given_outputs.astype(np.float64)) + given_beside.numpy().reshape(shape)
    assert pooled.grad is not None
    np.testing.assert_allclose(pooled.grad.numpy().reshape(shape), gradient, atol=1e-5 * max(scale, 1) * shape[1], rtol=1e-5)
    np.testing.assert_array_equal(given_beside, before)  # it is not ours to change


@pytest.mark.parametrize("meet", MEETINGS)
def test_many_rows_are_the_same_on_one_thread_and_on_two(meet: Meet) -> None:
    pooled = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 26 * 16)).astype(np.float32))
    results = []
    for threads in (1, 2):
        _core.set_num_threads(threads)
        leaf = pooled.clone().requires_grad_()
        outputs, beside = meet(leaf, 26)
        (outputs.square().sum() + beside.square().sum()).backward()
        assert leaf.grad is not None
        results.append((outputs.detach(), leaf.grad))
    assert all(bool((one == two).all()) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("level", _core.simd_levels())
def test_gradients_past_the_cache_are_those_of_halves_within(level: str) -> None:
    _core.set_simd_level(level)
    pooled = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 26 * 16)).astype(np.float32))
    gradients = []
    for part in (pooled, pooled[:1500], pooled[1500:]):  # 5 MB, and 2.5 twice
        leaf = part.clone().requires_grad_()
        outputs, beside = factorize(leaf, 26)
        (outputs.square().sum() + beside.square().sum()).backward()
        gradients.append(leaf.grad)
    whole, *halves = gradients
    assert torch.equal(whole, torch.cat(halves))


@pytest.mark.parametrize("meet", MEETINGS)
@pytest.mark.parametrize("used", ["outputs", "beside"])
def test_either_result_may_go_unused(meet: Meet, used: str) -> None:
    rows = np.random.default_rng(1).normal(size=(4, 3, 8)).astype(np.float32)
    pooled = torch.from_numpy(rows).flatten(1).requires_grad_()
    result = meet(pooled, 3)[used == "beside"]
    result.sum().backward()
    assert pooled.grad is not None
    expected = np.ones((4, 24)) if used == "beside" else expected_gradient(meet, rows, np.ones(result.shape)).reshape(4, 24)
    np.testing.assert_allclose(pooled.grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("meet", MEETINGS)
@pytest.mark.parametrize("dim", [3, 8])
def test_plain_torch_takes_what_the_core_does_not(meet: Meet, dim: int) -> None:
    rows = np.random.default_rng(2).normal(size=(5, 4, dim))
    pooled = torch.from_numpy(rows).flatten(1).requires_grad_()  # float64
    outputs, beside = meet(pooled, 4)
    np.testing.assert_allclose(outputs.detach(), expected_outputs(meet, rows), atol=1e-10)
    given_outputs = np.random.default_rng(3).normal(size=outputs.shape)
    ((outputs * torch.from_numpy(given_outputs)).sum() + beside.sum()).backward()
    assert pooled.grad is not None
    np.testing.assert_allclose(pooled.grad.reshape(rows.shape), expected_gradient(meet, rows, given_outputs) + 1, atol=1e-10)


def test_the_core_is_exact_where_bf16_would_round() -> None:
    pooled = torch.full((2, 3 * 4), 1 + 2**-12)
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = factorize(pooled, 3)
    assert terms.dtype == torch.float32
    np.testing.assert_allclose(terms[0], [3 * (1 + 2**-12), 9 * (1 + 2**-12) ** 2], rtol=1e-7)


@pytest.mark.parametrize("bad", [2.0**48, -(2.0**100), float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("level", _core.simd_levels())
def test_values_are_bounded_or_not_wherever_they_lie(level: str, bad: float) -> None:
    _core.set_simd_level(level)
    values = np.full(70_001, -(2.0**47.9), np.float32)
    for threads in (1, 2):
        _core.set_num_threads(threads)
        assert _core.all_bounded([values, np.zeros((0, 3), np.float32)])
        for place in (0, 17, 35_001, 70_000):
            one = values.copy()
            one[place] = bad
            assert not _core.all_bounded([values, one])


def test_what_does_not_fit_is_refused() -> None:
    pooled, terms = np.zeros((2, 12), np.float32), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="width of pooled must be a multiple of num_features, got 12 and 5"):
        _core.factorize(pooled, 5, terms)
    with pytest.raises(ValueError, match="dim of the pooled rows must be a multiple of 4, got 6"):
        _core.factorize(pooled, 2, terms)
    with pytest.raises(ValueError, match=r"terms must be \(2, 2\), got \(1, 2\)"):
        _core.factorize(pooled, 3, terms[:1])
    with pytest.raises(ValueError, match=r"pairs must be \(2, 3\), got \(2, 2\)"):
        _core.pairwise_dots(pooled, 3, terms)
    with pytest.raises(ValueError, match="rows of beside must be contiguous"):
        _core.factorize_backward(pooled, 3, terms, np.zeros((2, 24), np.float32)[:, ::2], pooled.copy())
