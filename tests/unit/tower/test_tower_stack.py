"""Sparse linear stacks in the core: every shape class against plain numpy in float64, at every instruction set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith_py import _core

Array = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]
WIDTHS = [1, 2, 15, 16, 17, 33, 100]
BATCHES = [0, 1, 2, 3, 4, 5, 11, 12, 15, 16, 17, 63, 64, 65, 130, 300]


@dataclass
class Case:
    """A stack, a batch and what comes back to it."""

    widths: list[int]  # of the inputs and of each layer
    relus: list[bool]
    height: int
    batch: int
    bf16: bool
    masks: list[npt.NDArray[np.bool_]]  # (blocks, I)
    values: list[Float]  # (atoms, h)
    biases: list[Float]
    inputs: list[Float]
    grad_outputs: Float


def make_case(
    widths: list[int],
    *,
    height: int = 16,
    batch: int = 5,
    density: float = 0.3,
    relu: bool = True,
    last_relu: bool = False,
    parts: int = 1,
    bf16: bool = False,
    seed: int = 0,
) -> Case:
    rng = np.random.default_rng(seed)
    masks, values, biases = [], [], []
    for width_in, width_out in pairwise(widths):
        blocks = -(-width_out // height)
        mask = rng.random((blocks, width_in)) < density
        if blocks > 1:
            mask[rng.integers(blocks)] = False
        masks.append(mask)
        atoms = rng.normal(size=(int(mask.sum()), height)).astype(np.float32) / np.sqrt(max(1.0, density * width_in))
        last = int(mask[-1].sum())
        if last and width_out % height:
            atoms[-last:, width_out % height :] = 0
        values.append(np.ascontiguousarray(atoms, dtype=np.float32))
        biases.append(rng.normal(size=width_out).astype(np.float32))
    cuts = np.sort(rng.integers(0, widths[0] + 1, parts - 1))
    part_widths = np.diff(np.concatenate([[0], cuts, [widths[0]]])).tolist()
    relus = [relu] * (len(widths) - 2) + [last_relu]
    inputs = [rng.normal(size=(batch, width)).astype(np.float32) for width in part_widths]
    grad_outputs = rng.normal(size=(batch, widths[-1])).astype(np.float32)
    return Case(widths, relus, height, batch, bf16, masks, values, biases, inputs, grad_outputs)


def make_stack(case: Case) -> _core.TowerStack:
    shapes = [(a, b, relu) for a, b, relu in zip(case.widths[:-1], case.widths[1:], case.relus, strict=True)]
    stack = _core.TowerStack(shapes, case.height, case.bf16)
    for layer, mask in enumerate(case.masks):
        bounds = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.uint32)
        stack.set_topology(layer, bounds, np.nonzero(mask)[1].astype(np.int32))
    stack.load(case.values, case.biases)
    return stack


def rounded(values: Array) -> Array:
    """To the nearest bfloat16, ties to even; the argument is exact in float32 but for sums, whose order may decide."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


class Result(NamedTuple):
    outputs: Array
    grad_inputs: Array
    grad_values: list[Array]
    grad_biases: list[Array]
    grad_all: list[Array]  # (blocks, I, h)


def dense(case: Case, layer: int) -> Array:
    """Return the weights (blocks * h, I)."""
    mask = case.masks[layer]
    weights = np.zeros((*mask.shape, case.height))
    weights[mask] = case.values[layer]
    return weights.transpose(0, 2, 1).reshape(-1, mask.shape[1])[: case.widths[layer + 1]]


def reference(case: Case) -> Result:
    """Forward and backward from their definitions."""
    near = rounded if case.bf16 else np.array
    weights = [near(dense(case, layer)) for layer in range(len(case.masks))]
    ins, outs = [near(np.concatenate(case.inputs, 1).astype(np.float64))], []
    for layer, weight in enumerate(weights):
        out = ins[-1] @ weight.T + case.biases[layer]
        if case.relus[layer]:
            out = np.maximum(out, 0)
        outs.append(out if layer + 1 == len(weights) else near(out))
        ins.append(outs[-1])
    gradient = case.grad_outputs.astype(np.float64)
    grad_values, grad_biases, grad_all = [], [], []
    for layer in reversed(range(len(weights))):
        gradient = near(gradient * (outs[layer] > 0) if case.relus[layer] else gradient)
        blocks = len(case.masks[layer])
        full = np.zeros((blocks * case.height, case.widths[layer]))
        full[: case.widths[layer + 1]] = gradient.T @ ins[layer]
        full = full.reshape(blocks, case.height, -1).transpose(0, 2, 1)
        grad_all.append(full)
        grad_values.append(full[case.masks[layer]])
        grad_biases.append(gradient.sum(0))
        gradient = gradient @ weights[layer]
    return Result(outs[-1], gradient, grad_values[::-1], grad_biases[::-1], grad_all[::-1])


class Got(NamedTuple):
    outputs: Float
    grad_inputs: list[Float]
    grad_values: list[Float]
    grad_biases: list[Float]
    grad_all: list[Float]


def is_real(case: Case, layer: int) -> npt.NDArray[np.bool_]:
    """Return which values are of outputs that exist, (blocks, I, h)."""
    blocks, width_in = case.masks[layer].shape
    real = (np.arange(blocks * case.height) < case.widths[layer + 1]).reshape(blocks, 1, case.height)
    return np.repeat(real, width_in, axis=1)


def run(case: Case, stack: _core.TowerStack) -> Got:
    outputs = np.full((case.batch, case.widths[-1]), np.nan, np.float32)
    tape = stack.forward_tape(case.inputs, outputs)
    assert tape.batch == case.batch
    got = Got(
        outputs,
        [np.full_like(part, np.nan) for part in case.inputs],
        [np.full_like(values, np.nan) for values in case.values],
        [np.full_like(biases, np.nan) for biases in case.biases],
        [2 * is_real(case, layer).astype(np.float32) for layer in range(len(case.masks))],
    )
    stack.backward(tape, case.grad_outputs, got.grad_inputs, got.grad_values, got.grad_biases, got.grad_all)
    return got


def assert_close(got: Float, expected: Array, tolerance: float) -> None:
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def check(case: Case) -> None:
    stack = make_stack(case)
    assert stack.engine == ("amx" if case.bf16 and case.height == 16 and _core.has_amx() else _core.simd_level())
    expected = reference(case)
    # A sum in another order may round to the next bfloat16, 2^-8 away, and a few such differences add up.
    tolerance = 3e-2 if case.bf16 else 2e-5
    got = run(case, stack)
    assert_close(got.outputs, expected.outputs, tolerance)
    assert_close(np.concatenate(got.grad_inputs, 1), expected.grad_inputs, tolerance)
    for layer in range(len(case.masks)):
        assert_close(got.grad_values[layer], expected.grad_values[layer], tolerance)
        assert_close(got.grad_biases[layer], expected.grad_biases[layer], tolerance)
        added = got.grad_all[layer] - 2 * is_real(case, layer)
        assert_close(added, expected.grad_all[layer], tolerance)
        assert_close(added[case.masks[layer]], got.grad_values[layer].astype(np.float64), 1e-5)
    outputs = np.full_like(got.outputs, np.nan)
    stack.forward(case.inputs, outputs)
    assert_close(outputs, got.outputs.astype(np.float64), tolerance)


@settings(max_examples=150)
@given(
    level=st.sampled_from(_core.simd_levels()),
    widths=st.lists(st.sampled_from(WIDTHS), min_size=2, max_size=4),
    height=st.sampled_from([16, 1]),
    batch=st.sampled_from(BATCHES),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    relu=st.booleans(),
    last_relu=st.booleans(),
    parts=st.integers(1, 3),
    bf16=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_shape_matches_float64(level: str, **arguments: object) -> None:
    _core.set_simd_level(level)
    check(make_case(**arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("level", _core.simd_levels())
@pytest.mark.parametrize("height", [16, 1])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_each_batch_size_matches_float64(level: str, height: int, bf16: bool, batch: int) -> None:
    _core.set_simd_level(level)
    check(make_case([100, 33, 17], height=height, batch=batch, parts=2, bf16=bf16))


@pytest.mark.parametrize("height", [16, 1])
@pytest.mark.parametrize("bf16", [False, True])
def test_results_do_not_depend_on_the_number_of_threads(height: int, bf16: bool) -> None:
    case = make_case([100, 65, 33], height=height, batch=700, parts=2, bf16=bf16)
    results = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        got = run(case, make_stack(case))
        results.append([got.outputs, *got.grad_inputs, *got.grad_values, *got.grad_biases, *got.grad_all])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_threads_may_go_forward_at_once(work_factor: int) -> None:
    case = make_case([100, 65, 33], batch=200)
    stack = make_stack(case)
    expected = np.empty((200, 33), np.float32)
    stack.forward(case.inputs, expected)

    def call(_: int) -> bool:
        outputs = np.empty_like(expected)
        stack.forward(case.inputs, outputs)
        return np.array_equal(outputs, expected)

    _core.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200 * work_factor)))


@pytest.mark.parametrize("level", _core.simd_levels())
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [3, 20])
def test_what_is_not_finite_stays_so_and_touches_no_other_example(level: str, bf16: bool, bad: float, batch: int) -> None:
    _core.set_simd_level(level)
    case = make_case([20, 17, 3], batch=batch, density=1.0, bf16=bf16)
    for mask in case.masks:
        mask[:] = True
    case.values = [np.ones((mask.sum(), 16), np.float32) for mask in case.masks]
    case.inputs[0][1, 4] = bad
    outputs = np.empty((batch, 3), np.float32)
    make_stack(case).forward(case.inputs, outputs)
    assert np.isfinite(np.delete(outputs, 1, axis=0)).all()
    if bad == -np.inf:
        np.testing.assert_allclose(outputs[1], case.biases[1], rtol=1e-6)  # ReLU ends it
    else:
        assert (np.isnan(outputs[1]) if np.isnan(bad) else np.isposinf(outputs[1])).all()


def test_a_dead_atom_keeps_what_is_not_finite_out() -> None:
    case = make_case([20, 16], batch=4, density=1.0)
    case.masks[0][0, 4] = False
    case.values = [np.ones((19, 16), np.float32)]
    case.inputs[0][:, 4] = np.nan
    outputs = np.empty((4, 16), np.float32)
    make_stack(case).forward(case.inputs, outputs)
    assert np.isfinite(outputs).all()


def test_parts_whose_gradient_is_not_asked_for_are_left_out() -> None:
    case = make_case([100, 33], batch=40, parts=3)
    stack = make_stack(case)
    tape = stack.forward_tape(case.inputs, np.empty((40, 33), np.float32))
    expected = run(case, stack)
    middle = np.empty_like(case.inputs[1])
    values, biases = [np.empty_like(case.values[0])], [np.empty_like(case.biases[0])]
    stack.backward(tape, case.grad_outputs, [None, middle, None], values, biases, None)
    np.testing.assert_array_equal(middle, expected.grad_inputs[1])
    np.testing.assert_array_equal(values[0], expected.grad_values[0])
