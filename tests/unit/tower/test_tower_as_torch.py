"""A sparse tower behaves as torch's layers in a graph: used twice, looked at in between, retained, other dtypes and shapes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower import Tower


def make_tower() -> Tower:
    torch.manual_seed(3)
    return Tower(12, [32, 24], sparsity=SparsityConfig(preset="static", density=0.5), seed=1)


def in_torch(tower: Tower, inputs: Tensor) -> Tensor:
    """The tower's outputs by torch's own operations."""
    for layer in tower.sparse_layers:
        inputs = layer(inputs)
    return inputs


def gradients(tower: Tower) -> list[Tensor]:
    found = [parameter.grad for parameter in tower.parameters()]
    tower.zero_grad()
    return [gradient for gradient in found if gradient is not None]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_one_tower_serves_both_sides_of_a_pair() -> None:
    tower, a, b = make_tower(), torch.randn(5, 12), torch.randn(7, 12)
    (tower(a).square().sum() + tower(b).sum()).backward()
    got = gradients(tower)
    (in_torch(tower, a).square().sum() + in_torch(tower, b).sum()).backward()
    assert_same(got, gradients(tower))


def test_a_look_without_gradients_between_forward_and_backward_is_harmless() -> None:
    tower, a = make_tower(), torch.randn(5, 12)
    outputs = tower(a)
    with torch.no_grad():
        tower(torch.randn(3, 12))
    outputs.square().sum().backward()
    got = gradients(tower)
    in_torch(tower, a).square().sum().backward()
    assert_same(got, gradients(tower))


def test_a_retained_graph_can_run_backward_again() -> None:
    tower, a = make_tower(), torch.randn(5, 12)
    total = tower(a).square().sum()
    total.backward(retain_graph=True)
    total.backward()
    got = gradients(tower)
    in_torch(tower, a).square().sum().mul(2).backward()
    assert_same(got, gradients(tower))


def test_weights_changed_between_forward_and_backward_are_refused() -> None:
    tower = make_tower()
    outputs = tower(torch.randn(5, 12))
    with torch.no_grad():
        tower.sparse_layers[0].values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_a_topology_changed_between_forward_and_backward_is_refused() -> None:
    tower = make_tower()
    layer = tower.sparse_layers[0]
    outputs = tower(torch.randn(5, 12))
    layer.place(layer.live, layer.values.detach())
    tower(torch.randn(5, 12))
    with pytest.raises(RuntimeError, match="topology of a sparse layer has changed"):
        outputs.sum().backward()


def test_double_precision_and_more_dimensions_work() -> None:
    tower, a = make_tower(), torch.randn(2, 5, 12)
    torch.testing.assert_close(tower(a), tower(a.view(10, 12)).view(2, 5, 24))
    single = tower(a)
    double = tower.double()(a.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


def test_inputs_of_another_width_are_refused() -> None:
    for tower in (make_tower(), Tower(12, [])):
        with pytest.raises(ValueError, match="inputs must have 12 columns together, got 11"):
            tower(torch.zeros(2, 11))


def test_loading_a_state_of_the_same_shape_keeps_the_parameters_of_an_optimizer() -> None:
    tower = make_tower()
    optimizer = torch.optim.SGD(tower.parameters(), lr=1.0)
    tower.load_state_dict(make_tower().state_dict())
    before = tower.sparse_layers[0].values.detach().clone()
    tower(torch.randn(5, 12)).sum().backward()
    optimizer.step()
    assert not torch.equal(tower.sparse_layers[0].values, before)


@pytest.mark.parametrize("outputs", [16, 17, 33])
def test_weights_of_the_padding_do_not_count(outputs: int) -> None:
    torch.manual_seed(0)
    tower = Tower(33, [outputs], sparsity=SparsityConfig(preset="static", density=0.5), seed=1)
    dense: nn.Linear = tower.sparse_layers[0].to_linear()
    assert tower.num_live_weights == int((dense.weight != 0).sum())


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own work
def test_a_compiled_tower_computes_what_it_does_without() -> None:
    tower, a = make_tower(), torch.randn(5, 12)
    outputs = torch.compile(tower, backend="eager")(a)
    outputs.square().sum().backward()
    got = gradients(tower)
    tower(a).square().sum().backward()
    assert_same([outputs, *got], [tower(a), *gradients(tower)])
