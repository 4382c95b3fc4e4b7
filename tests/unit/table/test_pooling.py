"""Other poolings against numpy: first rows side by side, weights, features that share a table.

Letters: B rows of the batch, F features, n fids, D a table's dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.table import NO_ROW, Adagrad, EmbeddingBags, EmbeddingTable, Feature, Optimizer, Sgd

Bags = dict[str, list[list[int]]]  # feature -> the fids of each of the B rows
Weights = dict[str, list[list[float]]]

FEATURES = [
    Feature("recent", dim=8, pooling="first", length=3, admit_after=2),
    Feature("user", dim=4),
    Feature("tags", dim=12, pooling="mean"),
    Feature("shown", table="tags", pooling="sum"),
    Feature("liked", table="recent", pooling="mean"),
    Feature("last", table="tags", pooling="first", length=2),
]
BY_NAME = {feature.name: feature for feature in FEATURES}
WIDTHS = {"recent": 24, "user": 4, "tags": 12, "shown": 12, "liked": 8, "last": 24}


def make_bags(features: list[Feature] = FEATURES, optimizer: Optimizer | None = None) -> EmbeddingBags:
    return EmbeddingBags(features, optimizer or Sgd(lr=0.5), seed=3)


def make_kjt(bags: Bags, weights: Weights | None = None) -> KeyedJaggedTensor:
    values = [fid for one in bags.values() for bag in one for fid in bag]
    scales = None if weights is None else torch.tensor([x for name in bags for bag in weights[name] for x in bag], dtype=torch.float32)
    return KeyedJaggedTensor.from_lengths_sync(
        keys=list(bags),
        values=torch.tensor(values, dtype=torch.int64),
        lengths=torch.tensor([len(bag) for one in bags.values() for bag in one], dtype=torch.int64),
        weights=scales,
    )


def some_batch(seed: int, num_rows: int = 60, names: list[str] | None = None) -> tuple[Bags, Weights]:
    generator = np.random.default_rng(seed)
    names = names or list(BY_NAME)
    bags = {name: [generator.integers(0, 25, generator.integers(0, 6)).tolist() for _ in range(num_rows)] for name in names}
    weights = {name: [generator.normal(size=len(bag)).round(2).tolist() for bag in one] for name, one in bags.items()}
    return bags, weights


def ones_like(bags: Bags) -> Weights:
    return {name: [[1.0] * len(bag) for bag in one] for name, one in bags.items()}


def shares(feature: Feature, bag: list[int], weights: list[float]) -> list[tuple[int, int, float]]:
    """Of each fid that counts: which block of the feature's columns it goes to, and times what. The definition of pooling."""
    if feature.pooling == "first":
        return [(at, fid, weight) for at, (fid, weight) in enumerate(zip(bag, weights, strict=True)) if at < feature.length]
    size = len(bag) if feature.pooling == "mean" else 1
    return [(0, fid, weight / size) for fid, weight in zip(bag, weights, strict=True)]


def pooled_by_hand(module: EmbeddingBags, bags: Bags, weights: Weights) -> np.ndarray:
    parts = []
    for name in BY_NAME:
        feature = BY_NAME[name]
        table = module.tables[feature.table or name]
        part = np.zeros((len(bags[name]), WIDTHS[name]))
        for b, (bag, scales) in enumerate(zip(bags[name], weights[name], strict=True)):
            for at, fid, weight in shares(feature, bag, scales):
                part[b, at * table.dim : (at + 1) * table.dim] += weight * table.gather(table.find([fid]))[0]
        parts.append(part)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_forward_pools_each_feature_as_it_says(seed: int, weighted: bool) -> None:
    module = make_bags()
    for step in range(3):
        bags, weights = some_batch(10 * seed + step)
        weights = weights if weighted else ones_like(bags)
        pooled = module(make_kjt(bags, weights if weighted else None))
        assert pooled.keys() == list(BY_NAME) and pooled.length_per_key() == list(WIDTHS.values())
        np.testing.assert_allclose(pooled.values().detach().numpy(), pooled_by_hand(module, bags, weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [Sgd(lr=0.5), Adagrad(lr=0.5, initial_accumulator=0.1)], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_backward_takes_one_step_of_all_gradients_that_reach_a_row(seed: int, weighted: bool, rule: Optimizer) -> None:
    """From all features of a table together: Adagrad would tell two steps from one."""
    module, expected = make_bags(optimizer=rule), make_bags(optimizer=rule)
    bags, weights = some_batch(seed)
    weights = weights if weighted else ones_like(bags)
    kjt = make_kjt(bags, weights if weighted else None)
    for one in (module, expected):
        one(kjt)
    pooled = module(kjt).values()
    expected(kjt)
    gradient = np.random.default_rng(seed).normal(size=pooled.shape).astype(np.float32)
    pooled.backward(torch.from_numpy(gradient))
    sums: dict[str, dict[int, np.ndarray]] = {name: {} for name in module.tables}
    column = 0
    for name, feature in BY_NAME.items():
        owner = feature.table or name
        dim = module.tables[owner].dim
        for b, (bag, scales) in enumerate(zip(bags[name], weights[name], strict=True)):
            for at, fid, weight in shares(feature, bag, scales):
                part = gradient[b, column + at * dim : column + (at + 1) * dim].astype(np.float64)
                sums[owner][fid] = sums[owner].get(fid, 0) + weight * part
        column += WIDTHS[name]
    for name, by_fid in sums.items():
        table = expected.tables[name]
        rows = table.find(np.array(list(by_fid), np.int64))
        table.update(rows, np.array(list(by_fid.values()), np.float32))
        for got, want in zip(module.tables[name].export_rows(), table.export_rows(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert module.rows_touched == sum(
        int((expected.tables[name].find(np.array(list(by_fid), np.int64)) != NO_ROW).sum()) for name, by_fid in sums.items()
    )


def test_first_pads_with_zeros_and_leaves_out_what_is_too_much() -> None:
    module = make_bags([Feature("recent", dim=4, pooling="first", length=3)])
    table = module.tables["recent"]
    bags: Bags = {"recent": [[], [5], [5, 6, 7], [5, 6, 7, 8, 9]]}
    pooled = module(make_kjt(bags)).values()
    blocks = pooled.detach().numpy().reshape(4, 3, 4)
    row = {fid: table.gather(table.find([fid]))[0] for fid in (5, 6, 7, 8)}
    assert not blocks[0].any() and not blocks[1, 1:].any()
    np.testing.assert_array_equal(blocks[2], [row[5], row[6], row[7]])
    np.testing.assert_array_equal(blocks[3], blocks[2])
    pooled.sum().backward()
    np.testing.assert_array_equal(table.gather(table.find([8]))[0], row[8], "what was left out is sighted and learns nothing")
    np.testing.assert_allclose(table.gather(table.find([5]))[0], row[5] - 3 * 0.5, rtol=1e-6)
    assert module.rows_touched == 3


def test_first_keeps_the_place_of_a_fid_that_is_not_admitted() -> None:
    module = make_bags([Feature("recent", dim=4, pooling="first", length=2, admit_after=2)])
    module(make_kjt({"recent": [[7, 7]]}))
    blocks = module(make_kjt({"recent": [[1, 7]]})).values().detach().numpy().reshape(2, 4)
    assert not blocks[0].any() and blocks[1].all()


def test_features_that_share_a_table_share_rows_sightings_and_memory() -> None:
    module = make_bags([Feature("seen", dim=4, admit_after=2), Feature("liked", table="seen"), Feature("own", dim=4, admit_after=2)])
    assert list(module.tables) == ["seen", "own"]
    pooled = module(make_kjt({"seen": [[1]], "liked": [[1]], "own": [[1]]}))
    assert len(module.tables["seen"]) == 1 and len(module.tables["own"]) == 0
    assert pooled["seen"].all() and torch.equal(pooled["seen"], pooled["liked"]), "the sightings of one batch count together"
    again = module(make_kjt({"seen": [[1]], "liked": [[1]], "own": [[2]]}))
    assert torch.equal(again["seen"], again["liked"])


def test_a_weight_of_zero_reads_zeros_and_learns_nothing_but_counts_in_the_mean() -> None:
    module = make_bags([Feature("a", dim=4, pooling="mean")])
    kjt = make_kjt({"a": [[1, 2]]}, {"a": [[0.0, 1.0]]})
    pooled = module(kjt).values()
    table: EmbeddingTable = module.tables["a"]
    before = table.gather(table.find([1, 2]))
    np.testing.assert_allclose(pooled.detach().numpy()[0], before[1] / 2, rtol=1e-6)
    pooled.sum().backward()
    np.testing.assert_allclose(table.gather(table.find([1, 2])), before - [[0.0], [0.25]], rtol=1e-6)


def test_weights_follow_their_fids_when_keys_come_in_another_order() -> None:
    bags, weights = some_batch(1)
    one, two = make_bags(), make_bags()
    turned = dict(reversed(bags.items()))
    for _ in range(2):
        first, second = one(make_kjt(bags, weights)).values(), two(make_kjt(turned, weights)).values()
        assert torch.equal(first, second) and first.any()
        first.square().sum().backward()
        second.square().sum().backward()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Feature("a", pooling="first"), "length of feature 'a' must be > 0 for pooling 'first' and 0 for others, got 0"),
        (lambda: Feature("a", pooling="first", length=-1), "length of feature 'a' must be > 0 .*, got -1"),
        (lambda: Feature("a", pooling="sum", length=2), "length of feature 'a' must be > 0 .* and 0 for others, got 2"),
        (lambda: make_bags([Feature("a"), Feature("b", table="c")]), r"table of feature 'b' must be one of \['a'\], got 'c'"),
        (
            lambda: make_bags([Feature("a"), Feature("b", table="a"), Feature("c", table="b")]),
            r"table of feature 'c' must be one of \['a'\], got 'b'",
        ),
        (lambda: make_bags([Feature("a", table="a")]), r"table of feature 'a' must be one of \[\], got 'a'"),
    ],
)
def test_a_wrong_setting_of_a_feature_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
