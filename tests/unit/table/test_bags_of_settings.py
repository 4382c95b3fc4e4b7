"""Bags of a job: each setting reaches its table, and a setting that the rule lacks is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.config import FeatureConfig, SparseOptimizerConfig
from monolith_py.data.schema import Schema
from monolith_py.table import NO_ROW, Adagrad, EmbeddingBags, EmbeddingTable, Ftrl, Momentum, Optimizer, optimizer_from
from monolith_py.table.feature import table_seed

KINDS = get_args(SparseOptimizerConfig.model_fields["kind"].annotation)
SETTINGS = sorted(set(SparseOptimizerConfig.model_fields) - {"kind", "schedule"})  # of the schedule: test_schedules.py


def make_bags(optimizer: SparseOptimizerConfig | None = None, **settings: Any) -> EmbeddingBags:
    feature = FeatureConfig(name="user", source="user_id", **{"dim": 4, **settings})
    return EmbeddingBags.of(Schema((feature,), (), ("click",)), optimizer or SparseOptimizerConfig(), seed=3, encoding="fp32")


def make_table(**settings: Any) -> EmbeddingTable:
    return make_bags(**settings).tables["user"]


def start(table: EmbeddingTable, num: int = 2_000) -> np.ndarray:
    return table.gather(table.find_or_insert(np.arange(num), 0))


def test_start_values_are_as_set() -> None:
    assert not start(make_table(initializer="zeros")).any()
    assert (start(make_table(initializer="constant", init_scale=0.5)) == 0.5).all()
    assert 0.45 < start(make_table(initializer="normal", init_scale=0.5)).std() < 0.55
    assert np.abs(start(make_table(initializer="xavier", init_scale=0.1))).max() <= 0.1 * np.sqrt(6 / 5) + 1e-6
    assert 0.0099 < np.abs(start(make_table())).max() <= 0.01


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"admit_after": 2}, 0, 0),
        ({"admit_after": 4, "admission": "proportional"}, 400, 600),
        ({"admit_after": 4, "admission": "geometric"}, 960, 1_150),
        ({"admit_after": 2, "admission": "sketch"}, 0, 10),
        ({}, 2_000, 2_000),
    ],
)
def test_admission_is_as_set(settings: dict[str, Any], least: int, most: int) -> None:
    table = make_table(**settings)
    table.find_or_insert(np.arange(2_000), 0)
    assert least <= len(table) <= most
    assert table.stats().candidates == (2_000 if settings == {"admit_after": 2} else 0)


def test_the_sketchs_size_and_window_are_as_set() -> None:
    small, large = (make_table(admit_after=2, admission="sketch", sketch_bytes=size) for size in (1 << 14, 1 << 20))
    assert large.stats().bytes - small.stats().bytes == (1 << 20) - (1 << 14)
    table = make_table(admit_after=2, admission="sketch", sketch_window_s=40)
    table.find_or_insert([1, 2], 100)
    assert [int(table.find_or_insert([fid], now_s)[0]) != NO_ROW for fid, now_s in ((1, 129), (2, 141))] == [True, False]


@pytest.mark.parametrize(("eviction", "left"), [("lru", "new"), ("lfu", "old"), ("score", "old")])
def test_the_budget_is_as_set(eviction: str, left: str) -> None:
    settings = {"half_life_s": 10_000} if eviction == "score" else {}
    table = make_table(budget_bytes=80_000, eviction=eviction, **settings)
    old, new = np.arange(700), np.arange(700) + 10_000
    table.find_or_insert(np.repeat(old, 30), 0)
    table.find_or_insert(new, 1_000)
    table.find_or_insert([-1], 2_000)
    shares = {"old": (table.find(old) != NO_ROW).mean(), "new": (table.find(new) != NO_ROW).mean()}
    other = {"old": "new", "new": "old"}[left]
    assert shares[left] == 1 and shares[other] < 0.8


def test_time_to_live_and_pooling_are_as_set() -> None:
    bags = make_bags(ttl_s=50, pooling="mean", initializer="constant", init_scale=1.0)
    kjt = KeyedJaggedTensor.from_lengths_sync(keys=["user"], values=torch.tensor([1, 2]), lengths=torch.tensor([2]))
    assert bags(kjt, now_s=0).values().tolist() == [[1.0] * 4]
    assert {name: fids.tolist() for name, fids in bags.evict(51).items()} == {"user": [1, 2]}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_rule_is_made_with_its_own_defaults(kind: str) -> None:
    rule = optimizer_from(SparseOptimizerConfig(kind=kind))  # type: ignore[arg-type]
    assert (rule.kind, rule) == (kind, type(rule)())


@pytest.mark.parametrize(("num_features", "lr"), [(1, 0.1), (4, 0.05), (25, 0.02)])
def test_the_default_rate_of_a_job_falls_with_its_number_of_features(num_features: int, lr: float) -> None:
    rule = optimizer_from(SparseOptimizerConfig().for_features(num_features))
    assert (rule.hyperparameters()["lr"], rule.hyperparameters()["initial_accumulator"]) == (pytest.approx(lr), 0.1)
    given = SparseOptimizerConfig(lr=0.3, initial_accumulator=0.5)
    assert given.for_features(num_features) == given
    other = SparseOptimizerConfig(kind="rowwise_adagrad")
    assert other.for_features(num_features) == other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_reaches_the_rule_or_is_refused_by_name(kind: str, setting: str) -> None:
    value = True if setting == "nesterov" else 0.625
    names = {field.name for field in fields(type(optimizer_from(SparseOptimizerConfig(kind=kind))))}  # type: ignore[arg-type]
    if setting in names:
        config = SparseOptimizerConfig(**{"kind": kind, setting: value})
        assert getattr(optimizer_from(config), setting) == value
        assert optimizer_from(config).hyperparameters()[setting] == float(value)
    else:
        with pytest.raises(ValueError, match=rf"optimizer.sparse.{setting} must come with kind = .*, got {value} with '{kind}'"):
            SparseOptimizerConfig(**{"kind": kind, setting: value})


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"kind": "adagrad", "lr": 0.3, "initial_accumulator": 0.5}, Adagrad(lr=0.3, initial_accumulator=0.5)),
        ({"kind": "momentum", "momentum": 0.5, "nesterov": True}, Momentum(momentum=0.5, nesterov=True)),
        ({"kind": "ftrl", "l1": 0.1, "weight_decay": 0.2, "clip_norm": 1.0}, Ftrl(l1=0.1, weight_decay=0.2, clip_norm=1.0)),
    ],
)
def test_rows_learn_by_the_rule_that_is_set(settings: dict[str, Any], rule: Optimizer) -> None:
    table = make_bags(SparseOptimizerConfig(**settings)).tables["user"]
    expected = EmbeddingTable(4, rule, seed=table_seed(3, "user"))
    gradients = np.random.default_rng(1).normal(size=(3, 5, 4)).astype(np.float32)
    for one in (table, expected):
        rows = one.find_or_insert(np.arange(5), 0)
        for gradient in gradients:
            one.update(rows, gradient)
    np.testing.assert_array_equal(table.export_rows()[1], expected.export_rows()[1])
