"""Pooled look-up against numpy: sums and means forward, the optimizer step on hand-summed gradients backward.

Letters: B rows of the batch, D the sum of the features' dims.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.errors import PoisonedBatch
from monolith_py.table import NO_ROW, Adagrad, EmbeddingBags, EmbeddingTable, Feature, Sgd

FEATURES = [Feature("user_id", dim=4), Feature("tags", dim=8, pooling="mean"), Feature("video_id", dim=4, admit_after=2)]
NAMES = [feature.name for feature in FEATURES]
Bags = dict[str, list[list[int]]]  # feature -> the fids of each of the B rows

one_bag = st.lists(st.one_of(st.integers(0, 6), st.integers(-(2**63), 2**63 - 1)), max_size=4)
bags_of_batches = st.integers(0, 5).flatmap(
    lambda num: st.fixed_dictionaries({name: st.lists(one_bag, min_size=num, max_size=num) for name in NAMES})
)


def make_kjt(bags: Bags, keys: Sequence[str] | None = None) -> KeyedJaggedTensor:
    keys = list(keys or bags)
    values = [fid for key in keys for bag in bags[key] for fid in bag]
    lengths = [len(bag) for key in keys for bag in bags[key]]
    return KeyedJaggedTensor.from_lengths_sync(
        keys=keys, values=torch.tensor(values, dtype=torch.int64), lengths=torch.tensor(lengths, dtype=torch.int64)
    )


def make_bags(**settings: object) -> EmbeddingBags:
    return EmbeddingBags(**{"features": FEATURES, "optimizer": Sgd(lr=0.5), "seed": 3, **settings})  # type: ignore[arg-type]


def pool(table: EmbeddingTable, feature: Feature, bag: list[int]) -> np.ndarray:
    weights = table.gather(table.find(bag)).astype(np.float64)
    if feature.pooling == "mean" and bag:
        return weights.sum(0) / len(bag)
    return weights.sum(0)


@given(st.lists(bags_of_batches, min_size=1, max_size=3))
def test_forward_pools_what_the_tables_hold(batches):
    module = make_bags()
    for bags in batches:
        pooled = module(make_kjt(bags))
        assert pooled.keys() == NAMES and pooled.length_per_key() == [4, 8, 4]
        num_rows = len(bags[NAMES[0]])
        assert pooled.values().shape == (num_rows, 16) and pooled.values().dtype == torch.float32
        for feature in FEATURES:
            table = module.tables[feature.name]
            expected = np.array([pool(table, feature, bag) for bag in bags[feature.name]]).reshape(num_rows, feature.dim)
            np.testing.assert_allclose(pooled[feature.name].detach().numpy(), expected, rtol=1e-5, atol=1e-7)
    for feature in FEATURES:
        seen = [fid for bags in batches for bag in bags[feature.name] for fid in bag]
        fids = module.tables[feature.name].export_rows()[0].tolist()
        assert fids == sorted(fid for fid in set(seen) if seen.count(fid) >= feature.admit_after)


@given(bags_of_batches, st.integers(0, 2**32 - 1))
def test_backward_takes_the_step_of_the_summed_gradients(bags, seed):
    rule = Adagrad(lr=0.5, initial_accumulator=0.1)
    module, expected = make_bags(optimizer=rule), make_bags(optimizer=rule)
    module(make_kjt(bags))  # the rows exist from here on
    expected(make_kjt(bags))
    pooled = module(make_kjt(bags)).values()
    gradient = np.random.default_rng(seed).normal(size=tuple(pooled.shape)).astype(np.float32)
    pooled.backward(torch.from_numpy(gradient))
    column = num_touched = 0
    for feature in FEATURES:
        table = expected.tables[feature.name]
        table.find_or_insert(np.array([fid for bag in bags[feature.name] for fid in bag], np.int64), 0)
        sums: dict[int, np.ndarray] = {}
        for bag, part in zip(bags[feature.name], gradient[:, column : column + feature.dim], strict=True):
            for fid in bag:
                share = part.astype(np.float64) / (len(bag) if feature.pooling == "mean" else 1)
                sums[fid] = sums.get(fid, 0) + share
        column += feature.dim
        num_touched += len(sums)
        rows = table.find(np.array(list(sums), np.int64))
        assert (rows != NO_ROW).all()
        table.update(rows, np.array(list(sums.values()), np.float32).reshape(-1, feature.dim))
        got = module.tables[feature.name].export_rows()
        assert got[0].tolist() == table.export_rows()[0].tolist()
        np.testing.assert_allclose(got[1], table.export_rows()[1], rtol=1e-4, atol=1e-5)
    if pooled.numel():
        assert module.rows_touched == num_touched


@given(bags_of_batches, st.permutations([*NAMES, "unused"]))
def test_the_order_of_keys_and_other_features_do_not_matter(bags, keys):
    one, two = make_bags(), make_bags()
    for _ in range(2):
        expected, got = one(make_kjt(bags)), two(make_kjt({**bags, "unused": bags["tags"]}, keys))
        assert got.keys() == NAMES
        torch.testing.assert_close(got.values(), expected.values(), rtol=0, atol=0)
        for pooled in (expected, got):
            pooled.values().square().sum().backward()
    for name in NAMES:
        np.testing.assert_array_equal(two.tables[name].export_rows()[1], one.tables[name].export_rows()[1])


def test_a_fid_not_admitted_reads_zeros_counts_in_the_mean_and_is_not_updated():
    module = make_bags(features=[Feature("tags", dim=4, pooling="mean", admit_after=2)])
    table = module.tables["tags"]
    weights = table.gather(table.find_or_insert([1, 1], 0))[0]
    pooled = module(make_kjt({"tags": [[1, 2, 3, 4]]})).values()
    np.testing.assert_allclose(pooled.detach().numpy()[0], weights / 4, rtol=1e-6)
    pooled.backward(torch.ones(1, 4))
    assert (len(table), module.rows_touched) == (1, 1)
    np.testing.assert_allclose(table.export_rows()[1][0], weights - 0.5 * 0.25, rtol=1e-6)


def test_the_same_fid_has_another_row_in_another_feature():
    module = make_bags(features=[Feature("a", dim=4), Feature("b", dim=4)])
    pooled = module(make_kjt({"a": [[7]], "b": [[7]]})).values().detach()[0]
    assert (pooled[:4] != pooled[4:]).all()


@pytest.mark.parametrize("mode", ["eval", "no_grad", "inference"])
def test_a_look_up_that_does_not_learn_inserts_and_counts_nothing(mode):
    module = make_bags()
    module(make_kjt({name: [[1, 1]] for name in NAMES}))
    before = [table.stats() for table in module.tables.values()]
    kjt = make_kjt({name: [[1, 2, 2], [3]] for name in NAMES})
    if mode == "eval":
        pooled = module.eval()(kjt).values().detach()
    elif mode == "no_grad":
        with torch.no_grad():
            pooled = module(kjt).values()
    else:
        with torch.inference_mode():
            pooled = module(kjt).values().clone()
    assert [table.stats() for table in module.tables.values()] == before
    assert pooled[0].ne(0).all() and pooled[1].eq(0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(bad):
    module = make_bags()
    pooled = module(make_kjt({name: [[1, 1], [2, 2]] for name in NAMES})).values()
    before = [table.export_rows()[1] for table in module.tables.values()]
    gradient = torch.ones(2, 16)
    gradient[1, 15] = bad  # in the last table: the others must not have been updated either
    with pytest.raises(PoisonedBatch, match="must be below 2\\^48"):
        pooled.backward(gradient)
    for table, weights in zip(module.tables.values(), before, strict=True):
        np.testing.assert_array_equal(table.export_rows()[1], weights)


def test_a_missing_feature_is_refused_by_name():
    with pytest.raises(ValueError, match=r"got \['user_id', 'video_id'\] without \['tags'\]"):
        make_bags()(make_kjt({"user_id": [[1]], "video_id": [[1]]}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_ids_that_are_not_int64_are_refused(dtype):
    kjt = KeyedJaggedTensor.from_lengths_sync(keys=NAMES, values=torch.arange(3).to(dtype), lengths=torch.ones(3, dtype=torch.int64))
    module = make_bags()
    with pytest.raises(ValueError, match=rf"must be int64 \(n,\), got {dtype}"):
        module(kjt)
    assert all(len(table) == 0 for table in module.tables.values())


@pytest.mark.parametrize("features", [[], [Feature("a"), Feature("b"), Feature("a")]], ids=["none", "twice"])
def test_features_must_be_some_and_of_different_names(features):
    with pytest.raises(ValueError, match="features must be at least one, of different names"):
        EmbeddingBags(features, Sgd())


def test_learning_rate_eviction_and_snapshots_reach_every_table(tmp_path):
    features = [Feature("a", dim=4, ttl_s=10), Feature("b", dim=8, ttl_s=100)]
    module, restored = make_bags(features=features), make_bags(features=features)
    module.now_s = 50
    module(make_kjt({"a": [[1]], "b": [[2]]}))
    module.set_lr(2.0)
    before = [table.export_rows()[1] for table in module.tables.values()]
    module(make_kjt({"a": [[1]], "b": [[2]]})).values().sum().backward()
    for table, weights in zip(module.tables.values(), before, strict=True):
        np.testing.assert_array_equal(table.export_rows()[1], weights - np.float32(2))
    module.save(tmp_path)
    restored.restore(tmp_path)
    for name, table in module.tables.items():
        np.testing.assert_array_equal(restored.tables[name].export_rows()[1], table.export_rows()[1])
    assert {name: fids.tolist() for name, fids in module.evict(61).items()} == {"a": [1], "b": []}


@pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy, pickle.dumps])
def test_bags_cannot_be_copied_by_accident(copier):
    with pytest.raises(TypeError, match="use save and restore"):
        copier(make_bags())
