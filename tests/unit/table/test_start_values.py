"""Start values are a pure function of (seed, fid), uniform in [-scale, scale); a fid without a row reads zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.table import EmbeddingBags, EmbeddingTable, Feature, Sgd

any_fid = st.integers(-(2**63), 2**63 - 1)


def make_table(**settings: float) -> EmbeddingTable:
    return EmbeddingTable(**{"dim": 8, "optimizer": Sgd(), "init_scale": 0.25, "seed": 1, **settings})  # type: ignore[arg-type]


@given(st.lists(any_fid, unique=True, min_size=1, max_size=40), st.randoms(use_true_random=False), st.integers(0, 2**64 - 1))
def test_start_values_do_not_depend_on_order_time_or_neighbours(fids, random, seed):
    shuffled = random.sample(fids, len(fids))
    one, two = make_table(seed=seed), make_table(seed=seed, admit_after=2)
    one.find_or_insert(fids, 5)
    two.find_or_insert(np.arange(100), 7)
    for _ in range(2):
        for fid in shuffled:
            two.find_or_insert([fid], 9)
    np.testing.assert_array_equal(one.gather(one.find(fids)), two.gather(two.find(fids)))


def test_seeds_and_fids_make_different_rows():
    rows = []
    for seed in range(20):
        table = make_table(seed=seed)
        rows.append(table.gather(table.find_or_insert(np.arange(-500, 500), 0)))
    assert len(np.unique(np.concatenate(rows), axis=0)) == 20 * 1000


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_start_values_are_uniform_within_the_scale(scale):
    table = make_table(init_scale=scale, dim=16)
    weights = table.gather(table.find_or_insert(np.arange(20_000), 0)) / scale
    assert weights.min() >= -1 and weights.max() < 1
    num = weights.size
    # Of a uniform in [-1, 1): variance 1/3; bounds of five standard deviations.
    assert abs(weights.mean()) < 5 * np.sqrt(1 / 3 / num)
    assert abs((weights**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / num)
    counts, _ = np.histogram(weights, bins=32, range=(-1, 1))
    assert ((counts - num / 32) ** 2 / (num / 32)).sum() < 31 + 5 * np.sqrt(2 * 31)  # chi-square, 31 degrees
    correlations = np.corrcoef(weights, rowvar=False) - np.eye(16)
    assert np.abs(correlations).max() < 5.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]) < 5 / np.sqrt(num), "fids side by side"


def test_a_scale_of_zero_starts_at_zeros():
    table = make_table(init_scale=0.0)
    assert not table.gather(table.find_or_insert(np.arange(100), 0)).any()


@given(st.lists(any_fid, min_size=1, max_size=20))
def test_absent_fids_read_zeros(fids):
    table = make_table(admit_after=3)
    table.find_or_insert(list(dict.fromkeys(fids)), 0)
    assert not table.gather(table.find(fids)).any()
    assert len(table) == 0


def test_start_values_of_a_feature_do_not_depend_on_the_others() -> None:
    def start_values(*names: str, seed: int = 3) -> dict[str, list[list[float]]]:
        bags = EmbeddingBags([Feature(name, dim=4) for name in names], Sgd(), seed=seed)
        fids = np.arange(5)
        return {name: table.gather(table.find_or_insert(fids, 0)).tolist() for name, table in bags.tables.items()}

    alone, after, before = start_values("user"), start_values("item", "user"), start_values("user", "tag")
    assert alone["user"] == after["user"] == before["user"]
    assert after["item"] != after["user"]
    assert start_values("user", seed=4)["user"] != alone["user"]
