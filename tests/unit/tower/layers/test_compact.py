"""Compact dense layers against their sparse tower."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config.sparsity import Atom, SparsityConfig
from monolith_py.tower import SparseLinear, Tower
from monolith_py.tower.layers.compact import CompactTower


@pytest.mark.parametrize("atom", ["16x1", "1x1", "neuron"])
@given(density=st.sampled_from([0.1, 0.3, 0.7]), seed=st.integers(0, 20))
def test_outputs_are_those_of_the_tower(atom: Atom, density: float, seed: int) -> None:
    torch.manual_seed(seed)
    tower = Tower(30, [64, 33, 20], sparsity=SparsityConfig(preset="static", density=density, atom=atom), seed=seed)
    with torch.no_grad():
        for layer in tower.layers:
            layer.bias.uniform_(-1, 1)
    smaller = CompactTower(list(tower.layers))  # type: ignore[arg-type]
    inputs = torch.randn(7, 30)
    torch.testing.assert_close(smaller(inputs), tower(inputs), rtol=1e-4, atol=1e-5)
    dense = sum(layer.in_features * layer.out_features for layer in tower.layers)
    assert smaller.num_weights <= dense


def test_what_nobody_reads_and_what_reads_nothing_is_left_out() -> None:
    first, second = SparseLinear(6, 32, relu=True), SparseLinear(32, 16, relu=True)
    live = torch.zeros(2, 6, dtype=torch.bool).numpy()
    live[0, [1, 4]] = True  # the second block of outputs reads nothing
    first.place(live, torch.ones(2, 16))
    live = torch.zeros(1, 32, dtype=torch.bool).numpy()
    live[0, [3, 20]] = True  # one output of the first block, one constant of the second
    second.place(live, torch.ones(2, 16))
    first.bias.data.fill_(0.5)
    smaller = CompactTower([first, second])
    assert [tuple(layer.weight.shape) for layer in smaller.layers] == [(1, 2), (16, 1)]
    assert smaller.inputs.tolist() == [1, 4]
    inputs = torch.rand(3, 6)
    torch.testing.assert_close(smaller(inputs), second(first(inputs)))
