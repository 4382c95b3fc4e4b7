"""Sparse layers against their dense weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from monolith_py.config.sparsity import Atom
from monolith_py.tower import SparseLinear
from monolith_py.tower.layers.sparse_linear import atoms_of, weight_of

ATOMS: tuple[Atom, ...] = ("16x1", "1x1", "neuron")


def make_layer(atom: Atom, inputs: int = 7, outputs: int = 20, density: float = 0.4, seed: int = 0) -> tuple[SparseLinear, np.ndarray]:
    """Return a layer and the dense weight it stands for."""
    torch.manual_seed(seed)
    dense = nn.Linear(inputs, outputs)
    layer = SparseLinear(inputs, outputs, atom)
    live = np.random.default_rng(seed).random(layer.grid) < density
    full = np.zeros((layer.num_blocks, layer.num_places, layer.atom_size), np.bool_)
    full[np.atleast_2d(live)] = True
    mask = weight_of(torch.from_numpy(full), inputs, outputs, atom).numpy()
    return SparseLinear.of(dense, live, atom), dense.weight.detach().numpy() * mask


@pytest.mark.parametrize("atom", ATOMS)
@given(inputs=st.integers(1, 40), outputs=st.integers(1, 40), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_weight_is_the_dense_one_where_atoms_live(atom: Atom, inputs: int, outputs: int, density: float, seed: int) -> None:
    layer, expected = make_layer(atom, inputs, outputs, density, seed)
    np.testing.assert_array_equal(layer.weight().detach().numpy(), expected)
    np.testing.assert_array_equal(layer.to_linear().weight.detach().numpy(), expected)
    assert layer.num_live == layer.live.sum()
    assert layer.density == pytest.approx(layer.live.mean())


@pytest.mark.parametrize("atom", ATOMS)
@pytest.mark.parametrize("collects", [False, True])
def test_plain_torch_computes_outputs_and_gradients_of_the_dense_layer(atom: Atom, collects: bool) -> None:
    layer, weight = make_layer(atom)
    alive = layer.live if atom == "neuron" else np.ones(20, np.bool_)  # a neuron that is dead has no bias
    if collects:
        layer.gradient_sum = torch.zeros(layer.num_blocks, layer.num_places, layer.atom_size)
    inputs = torch.randn(9, 7, requires_grad=True)
    reference_weight = torch.tensor(weight, requires_grad=True)
    outputs = layer(inputs)
    expected = inputs.detach() @ reference_weight.T + layer.bias.detach() * torch.from_numpy(alive)
    torch.testing.assert_close(outputs, expected)
    pull = torch.randn(9, 20)
    outputs.backward(pull)
    expected.backward(pull)
    assert reference_weight.grad is not None and inputs.grad is not None
    full = atoms_of(reference_weight.grad, atom)
    torch.testing.assert_close(layer.values.grad, full[torch.from_numpy(np.atleast_2d(layer.live))])
    torch.testing.assert_close(inputs.grad, pull @ torch.tensor(weight))
    if layer.gradient_sum is not None:
        torch.testing.assert_close(layer.gradient_sum, full)


@pytest.mark.parametrize("atom", ATOMS)
def test_a_state_dict_brings_its_topology_along(atom: Atom) -> None:
    source, _ = make_layer(atom, density=0.7)
    target, _ = make_layer(atom, density=0.2, seed=5)
    assert source.num_live != target.num_live
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.weight(), source.weight())
    assert int(target.topology_version) == int(source.topology_version)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("values", torch.zeros(3, 5), r"values must be \(atoms, 16\)"),
        ("bounds", torch.zeros(9, dtype=torch.int32), r"bounds must be \(3,\)"),
        ("bounds", torch.tensor([0, 3, 3], dtype=torch.int32), "bounds must ascend from 0"),
        ("columns", torch.tensor([0, 2, 1, 3], dtype=torch.int32), "columns must ascend within a block"),
        ("columns", torch.tensor([0, 1, 2, 7], dtype=torch.int32), r"columns must be in \[0, 7\)"),
        ("columns", torch.tensor([-1, 1, 2, 3], dtype=torch.int32), r"columns must be in \[0, 7\)"),
    ],
)
def test_a_topology_that_breaks_a_rule_is_refused(name: str, value: torch.Tensor, message: str) -> None:
    layer = SparseLinear(7, 20)
    live = np.zeros((2, 7), np.bool_)
    live[0, :2] = live[1, 2:4] = True
    layer.place(live, torch.ones(4, 16))
    state = {**layer.state_dict(), name: value}
    if name == "columns":
        state["bounds"] = torch.tensor([0, 4, 4], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(state)
    assert layer.num_live == 4


def test_values_that_do_not_fit_the_mask_are_refused() -> None:
    layer = SparseLinear(7, 20)
    with pytest.raises(ValueError, match=r"values must have shape \(14, 16\), got \(3, 16\)"):
        layer.place(np.ones((2, 7), np.bool_), torch.zeros(3, 16))
    with pytest.raises(ValueError, match=r"live must have the shape \(2, 7\)"):
        layer.place(np.ones((3, 7), np.bool_), torch.zeros(21, 16))
