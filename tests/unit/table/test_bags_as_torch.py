"""Bags behave as torch users expect: frozen and eval, one step per backward, accumulation, weights, freed rows, odd input."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.errors import PoisonedBatch
from monolith_py.table import Adagrad, EmbeddingBags, EmbeddingTable, Feature, MemoryBudget, Optimizer, Sgd

DIM = 4


def make_bags(optimizer: Optimizer | None = None, names: str = "a", defers_steps: bool = False, **settings: Any) -> EmbeddingBags:
    features = [Feature(name, dim=DIM, **{"initializer": "zeros", **settings}) for name in names]
    bags = EmbeddingBags(features, optimizer or Sgd(lr=1.0), defers_steps=defers_steps)
    bags.now_s = 0
    return bags


def kjt(*bags: list[int], names: str = "a", weights: torch.Tensor | None = None) -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(
        keys=list(names),
        values=torch.tensor([fid for bag in bags for fid in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for bag in bags]),
        weights=weights,
    )


def row(bags: EmbeddingBags, fid: int, table: str = "a") -> list[float]:
    return bags.tables[table].lookup([fid])[0].tolist()


def test_eval_and_frozen_bags_take_no_step_and_count_nothing() -> None:
    bags = make_bags()
    bags(kjt([1])).values().sum().backward()
    around = nn.Sequential(bags)
    for freeze in (lambda: bags.eval(), lambda: around.train().requires_grad_(False), lambda: bags.requires_grad_(False)):
        freeze()
        counts = bags.tables["a"].entries().counts.tolist()
        pooled = bags(kjt([1, 2])).values()
        assert not pooled.requires_grad
        (pooled * torch.ones(DIM, requires_grad=True)).sum().backward()
        assert row(bags, 1) == [-1.0] * DIM and len(bags.tables["a"]) == 1
        assert bags.tables["a"].entries().counts.tolist() == counts
        bags.train().requires_grad_(True)
    bags(kjt([1])).values().sum().backward()
    assert row(bags, 1) == [-2.0] * DIM


def test_one_feature_can_be_frozen_beside_another() -> None:
    bags = make_bags(names="ab")
    bags(kjt([1], [1], names="ab")).values().sum().backward()
    bags.requires_grad_(False, features=["a"])
    bags(kjt([1, 2], [1, 2], names="ab")).values().sum().backward()
    assert (row(bags, 1), len(bags.tables["a"])) == ([-1.0] * DIM, 1)
    assert (row(bags, 1, "b"), len(bags.tables["b"])) == ([-2.0] * DIM, 2)
    with pytest.raises(ValueError, match=r"features must be of \['a', 'b'\], got \['c'\]"):
        bags.requires_grad_(False, features=["c"])


def test_two_look_ups_in_one_backward_take_one_step_of_the_sum() -> None:
    """Adagrad would move a row by 1.707 in two steps, and by 1 in one."""
    bags = make_bags(Adagrad(lr=1.0, initial_accumulator=0.0, eps=1e-12))
    first, second = bags(kjt([1], [1, 1])), bags(kjt([1]))
    (first.values().sum() + second.values().sum()).backward()
    np.testing.assert_allclose(row(bags, 1), [-1.0] * DIM, rtol=1e-6)
    assert bags.rows_touched == 1
    np.testing.assert_allclose(bags.tables["a"].state(bags.tables["a"].find([1]))[0], [16.0] * DIM)


def test_a_backward_that_failed_leaves_nothing_for_the_next() -> None:
    bags = make_bags()
    first, second = bags(kjt([1])).values(), bags(kjt([2])).values()

    def fail(_: torch.Tensor) -> None:
        raise ArithmeticError

    first.register_hook(fail)
    with pytest.raises(ArithmeticError):
        (second.sum() + first.sum() * 1.0).backward()
    bags(kjt([3])).values().sum().backward()
    assert (row(bags, 1), row(bags, 2), row(bags, 3)) == ([0.0] * DIM, [0.0] * DIM, [-1.0] * DIM)


def test_gradients_of_micro_batches_add_up_to_one_deferred_step() -> None:
    bags, whole = (make_bags(Adagrad(lr=1.0, initial_accumulator=0.1), defers_steps=defers) for defers in (True, False))
    for bags_of_one in ([[1, 2], [1]], [[2]]):
        bags(kjt(*bags_of_one)).values().sum().mul(8.0).backward()
        assert not bags.tables["a"].export_rows()[1].any()
    bags.step(scale=1 / 8)
    whole(kjt([1, 2], [1], [2])).values().sum().backward()
    np.testing.assert_allclose(bags.tables["a"].export_rows()[1], whole.tables["a"].export_rows()[1], rtol=1e-6)
    bags(kjt([1])).values().sum().backward()
    bags.zero_grad()
    bags.step()
    assert bags.rows_touched == 0
    with pytest.raises(ValueError, match="step needs EmbeddingBags with defers_steps=True"):
        whole.step()
    with pytest.raises(ValueError, match="scale must be finite, got nan"):
        bags.step(math.nan)


def test_a_deferred_gradient_that_is_not_finite_is_refused_and_the_others_stay() -> None:
    bags = make_bags(defers_steps=True)
    bags(kjt([1])).values().sum().backward()
    with pytest.raises(PoisonedBatch):
        bags(kjt([2])).values().mul(math.inf).sum().backward()
    bags.step()
    assert (row(bags, 1), row(bags, 2)) == ([-1.0] * DIM, [0.0] * DIM)


class _Nested(torch.autograd.Function):
    """Runs a backward pass of its own inside of another, as torch.utils.checkpoint does with use_reentrant."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, inner: Callable[[], torch.Tensor]) -> torch.Tensor:
        ctx.inner = inner
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        with torch.enable_grad():
            ctx.inner().backward()
        return gradients[0], None


def test_a_backward_inside_of_another_loses_no_gradient_of_it() -> None:
    """The inner pass begins between two look-ups of the outer one: each pass takes one step."""
    bags = make_bags()
    early = bags(kjt([1])).values()
    nested = _Nested.apply(torch.ones(1, requires_grad=True), lambda: bags(kjt([2])).values().sum())
    late = bags(kjt([3])).values()
    (early.sum() + nested.sum() + late.sum()).backward()
    assert [row(bags, fid) for fid in (1, 2, 3)] == [[-1.0] * DIM] * 3


def test_passes_of_two_threads_take_their_own_steps() -> None:
    bags, meet = make_bags(), threading.Barrier(2, timeout=60)
    errors: list[BaseException] = []

    def wait() -> None:
        meet.wait()

    def learn(fid: int) -> None:
        try:
            first, second = bags(kjt([fid])).values(), bags(kjt([fid + 10])).values()
            second.register_hook(lambda _: wait())  # both passes are under way
            first.register_hook(lambda _: wait())  # both are between their look-ups
            (first.sum() + second.sum()).backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=learn, args=(fid,)) for fid in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and [row(bags, fid) for fid in (1, 2, 11, 12)] == [[-1.0] * DIM] * 4


def test_a_second_backward_is_refused_and_a_graph_of_the_gradient_is_no_obstacle() -> None:
    bags = make_bags()
    total = bags(kjt([1])).values().sum()
    total.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()
    factor = torch.ones(DIM, requires_grad=True)
    pooled = bags(kjt([1])).values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against create_graph
        (pooled * factor).square().sum().backward(create_graph=True)
    assert factor.grad is not None and bags.rows_touched == 1


def test_a_second_derivative_is_refused() -> None:
    bags, weights = make_bags(), torch.ones(1, requires_grad=True)
    loss = bags(kjt([1], weights=weights)).values().square().sum()
    (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_rows_freed_between_forward_and_backward_are_never_hit() -> None:
    bags = make_bags(ttl_s=10)
    late = bags(kjt([1, 2, 3])).values()
    bags.evict(1_000)
    bags(kjt([4, 5, 6]), now_s=1_000)
    late.sum().backward()
    assert not bags.tables["a"].export_rows()[1].any() and (bags.rows_touched, bags.rows_dropped) == (0, 3)


@pytest.mark.parametrize("later_s", [0, 20])
def test_rows_evicted_by_a_budget_take_no_gradient_of_others(later_s: int) -> None:
    """FBGEMM 5954 and 5807: eviction of a row while an update of it is on its way."""
    bags = make_bags(Sgd(lr=1.0), budget=MemoryBudget(4_000, "lru"))
    first = bags(kjt(list(range(100)))).values()
    second = bags(kjt(list(range(1_000, 1_100))), now_s=later_s).values()
    first.sum().backward()
    second.sum().mul(5.0).backward()
    fids, weights = bags.tables["a"].export_rows()
    assert bags.tables["a"].stats().evicted > 0
    for fid, weight in zip(fids, weights, strict=True):
        assert weight.tolist() == [-5.0 if fid >= 1_000 else -1.0] * DIM


def test_an_update_of_a_table_skips_rows_of_another_fid() -> None:
    table = EmbeddingTable(DIM, Sgd(lr=1.0), initializer="zeros", ttl_s=10)
    rows = table.find_or_insert([1, 2], 0)
    table.find_or_insert([2], 100)
    table.evict(100)
    table.find_or_insert([3], 100)
    table.update(rows, np.ones((2, DIM), np.float32), fids=[1, 2])
    assert [table.lookup([fid])[0, 0] for fid in (1, 2, 3)] == [0.0, -1.0, 0.0]


@pytest.mark.parametrize("pooling", ["sum", "mean", "first"])
def test_weights_get_the_gradient_that_torch_gives_them(pooling: str) -> None:
    generator = np.random.default_rng(1)
    feature = Feature("a", dim=DIM, pooling=pooling, length=2 if pooling == "first" else 0, initializer="normal", init_scale=1.0)
    bags = EmbeddingBags([feature, Feature("b", dim=8, initializer="normal", init_scale=1.0)], Sgd(lr=1.0))
    rows = [[1, 2, 3], [], [2], [4, 4], [5], [6]]
    weights = torch.tensor(generator.normal(size=8), dtype=torch.float32, requires_grad=True)
    pooled = bags(kjt(*rows, names="ab", weights=weights))
    gradient = torch.tensor(generator.normal(size=tuple(pooled.values().shape)), dtype=torch.float32)
    values = [bags.tables[name].lookup([fid for bag in own for fid in bag]) for name, own in (("a", rows[:3]), ("b", rows[3:]))]
    pooled.values().backward(gradient)
    a, b = (torch.tensor(value) for value in values)
    twin = weights.detach().clone().requires_grad_()
    scaled = a * twin[:4, None]
    if pooling == "first":
        pooled_a = torch.stack([torch.cat([scaled[0], scaled[1]]), torch.zeros(8), torch.cat([scaled[3], torch.zeros(4)])])
    else:
        pooled_a = torch.stack([scaled[:3].sum(0) / (3 if pooling == "mean" else 1), torch.zeros(4), scaled[3]])
    scaled_b = b * twin[4:, None]
    pooled_b = torch.stack([scaled_b[:2].sum(0), scaled_b[2], scaled_b[3]])
    torch.cat([pooled_a, pooled_b], 1).backward(gradient)
    torch.testing.assert_close(weights.grad, twin.grad, rtol=1e-5, atol=1e-6)


def test_weights_get_their_gradient_in_eval_without_a_step() -> None:
    bags = make_bags(initializer="constant", init_scale=0.5)
    bags(kjt([1]))
    weights = torch.ones(1, requires_grad=True)
    bags.eval()(kjt([1], weights=weights)).values().sum().backward()
    assert weights.grad is not None and weights.grad.tolist() == [0.5 * DIM] and row(bags, 1) == [0.5] * DIM


def test_weights_changed_between_forward_and_backward_are_refused() -> None:
    bags = make_bags()
    weights = torch.ones(1)
    pooled = bags(kjt([1], weights=weights)).values()
    weights.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        pooled.sum().backward()
    assert row(bags, 1) == [0.0] * DIM


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="weights of the KeyedJaggedTensor must be finite"):
        make_bags()(kjt([1], weights=torch.tensor([bad])))


def test_a_product_of_weight_and_gradient_that_is_too_large_reaches_no_row() -> None:
    bags = make_bags()
    pooled = bags(kjt([1], weights=torch.tensor([1e20]))).values()
    with pytest.raises(PoisonedBatch, match="times their weight"):
        pooled.backward(torch.full((1, DIM), 1e20))
    assert row(bags, 1) == [0.0] * DIM


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2.0**48])
def test_a_gradient_that_is_not_finite_reaches_no_row_of_a_table(bad: float) -> None:
    table = EmbeddingTable(DIM, Sgd(), initializer="zeros")
    rows = table.find_or_insert([1, 2], 0)
    gradients = np.ones((2, DIM), np.float32)
    gradients[1, 3] = bad
    with pytest.raises(PoisonedBatch, match="no row was changed"):
        table.update(rows, gradients)
    assert not table.export_rows()[1].any()


def test_features_of_one_table_count_a_batch_together() -> None:
    features = [Feature("a", dim=DIM, admit_after=2), Feature("b", dim=DIM, table="a")]
    bags = EmbeddingBags(features, Sgd())
    pooled = bags(kjt([7], [7], names="ab"))
    assert pooled["a"].any() and torch.equal(pooled["a"], pooled["b"])
