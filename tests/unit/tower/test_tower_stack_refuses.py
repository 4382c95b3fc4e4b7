"""Sparse linear stacks refuse wrong arguments with field, rule and value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from monolith_py import _core


def small() -> _core.TowerStack:
    stack = _core.TowerStack([(20, 33, True), (33, 2, False)], 16, False)
    stack.set_topology(0, np.array([0, 2, 2, 3], np.int32), np.array([0, 19, 5], np.int32))
    return stack


def load_small(stack: _core.TowerStack, atoms: int = 3, biases: int = 33) -> None:
    zeros = [np.zeros((atoms, 16), np.float32), np.zeros((0, 16), np.float32)]
    stack.load(zeros, [np.zeros(biases, np.float32), np.zeros(2, np.float32)])


def topology(bounds: list[int], columns: list[int], layer: int = 0) -> None:
    small().set_topology(layer, np.array(bounds, np.uint32), np.array(columns, np.int32))


def forward_small(width: int = 20, outputs: tuple[int, int] = (4, 2)) -> None:
    stack = small()
    load_small(stack)
    stack.forward([np.zeros((4, width), np.float32)], np.zeros(outputs, np.float32))


def backward_after_load() -> None:
    stack = small()
    load_small(stack)
    tape = stack.forward_tape([np.zeros((4, 20), np.float32)], np.zeros((4, 2), np.float32))
    load_small(stack)
    values = [np.zeros((3, 16), np.float32), np.zeros((0, 16), np.float32)]
    stack.backward(tape, np.zeros((4, 2), np.float32), [None], values, [np.zeros(33, np.float32), np.zeros(2, np.float32)], None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.TowerStack([], 16, False), "layers must be at least one, got none"),
        (lambda: _core.TowerStack([(4, 4, True)], 8, False), "atom_height must be 1 or 16, got 8"),
        (lambda: _core.TowerStack([(65537, 4, True)], 16, False), r"layers\[0\] in must be in 1..65536, got 65537"),
        (lambda: _core.TowerStack([(4, 0, True)], 16, False), r"layers\[0\] out must be >= 1, got 0"),
        (lambda: _core.TowerStack([(4, 4, True), (5, 4, True)], 16, False), r"layers\[1\] in must be 4, .* got 5"),
        (lambda: topology([0, 0, 0, 0], [], layer=2), "layer must be below 2, got 2"),
        (lambda: topology([0, 0], []), "bounds must have size 4, got 2"),
        (lambda: topology([1, 1, 1, 1], [0]), "bounds must begin at 0, got 1"),
        (lambda: topology([0, 2, 1, 2], [0, 1]), "bounds must not decrease, got 1 after 2"),
        (lambda: topology([0, 0, 0, 3], [0, 1]), "bounds must end at the number of columns, 2, got 3"),
        (lambda: topology([0, 2, 2, 2], [3, 3]), "columns of a block must ascend, got 3 after 3"),
        (lambda: topology([0, 1, 1, 1], [20]), "columns must be in 0..19, got 20"),
        (lambda: topology([0, 1, 1, 1], [-1]), "columns must be in 0..19, got -1"),
        (lambda: load_small(small(), atoms=4), r"values\[0\] must be \(3, 16\), got \(4, 16\)"),
        (lambda: load_small(small(), biases=3), r"biases\[0\] must have size 33, got 3"),
        (lambda: small().forward([np.zeros((4, 20), np.float32)], np.zeros((4, 2), np.float32)), "weights must be loaded"),
        (lambda: forward_small(width=19), "inputs must have 20 columns together, got 19"),
        (lambda: forward_small(outputs=(4, 3)), r"outputs must be \(4, 2\), got \(4, 3\)"),
        (lambda: forward_small(outputs=(5, 2)), r"inputs\[0\] must be \(5, 20\), got \(4, 20\)"),
        (backward_after_load, "tape must be of a forward since the last load, got one of load 1 after load 2"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
