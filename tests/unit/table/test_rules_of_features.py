"""Learning of a job's features by its settings: schedules, rules by feature, frozen features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.table import EmbeddingBags

JOB: dict[str, Any] = {
    "name": "shop",
    "log": {"url": "sqlite:///unused"},
    "kv": {"url": "memory:"},
    "tasks": [{"name": "click", "action": "click"}],
    "trainer": {"checkpoint_dir": "unused"},
}
SGD = {"kind": "sgd", "lr": 1.0}


def make_job(*features: dict[str, Any], sparse: dict[str, Any] | None = None) -> JobConfig:
    named = [{"name": name, "source": "item", "dim": 4, "initializer": "zeros", **one} for name, one in zip("abc", features, strict=False)]
    return parse_job({**JOB, "features": named, "optimizer": {"sparse": sparse or SGD}})


def make_bags(job: JobConfig) -> EmbeddingBags:
    return EmbeddingBags.of(Schema.of(job), job.optimizer.sparse, job.seed, "fp32")


def learn(bags: EmbeddingBags, steps: int = 1) -> dict[str, float]:
    """Learn fid 7 of each feature with the gradient 1, and return the first weight of each."""
    names = [feature.name for feature in bags.features]
    for _ in range(steps):
        kjt = KeyedJaggedTensor.from_lengths_sync(names, torch.tensor([7] * len(names)), torch.tensor([1] * len(names)))
        pooled = bags(kjt, now_s=0).values()
        if pooled.requires_grad:
            pooled.sum().backward()
    return {name: float(bags.tables[name].lookup([7])[0, 0]) for name in names}


def test_rows_learn_by_the_schedule_of_the_job() -> None:
    schedule = {"warmup_steps": 2, "decay": "polynomial", "decay_steps": 4, "end_lr": 0.2}
    bags = make_bags(make_job({}, sparse={**SGD, "schedule": schedule}))
    rates = [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    assert [learn(bags)["a"] for _ in rates] == pytest.approx((-np.cumsum(rates)).tolist())


def test_a_schedule_goes_on_where_a_snapshot_was_taken(tmp_path: Any) -> None:
    job = make_job({}, sparse={**SGD, "schedule": {"decay": "step", "decay_steps": 2, "factor": 0.5}})
    bags, restored = make_bags(job), make_bags(job)
    learn(bags, steps=3)
    bags.save(tmp_path)
    restored.restore(tmp_path)
    assert learn(restored) == learn(bags) == {"a": -3.0}


def test_each_feature_learns_by_its_own_rule() -> None:
    own = {"kind": "momentum", "lr": 0.5, "momentum": 0.5, "schedule": {"warmup_steps": 2}}
    assert learn(make_bags(make_job({}, {"optimizer": own})), steps=2) == {"a": -2.0, "b": -(0.25 + 0.5 * 1.5)}


def test_adagrad_of_a_feature_takes_the_default_rate_of_a_job() -> None:
    bags = make_bags(make_job({}, {"optimizer": {"kind": "adagrad"}}, {}, {}))
    assert learn(bags)["b"] == pytest.approx(-0.1 / np.sqrt(3) / np.sqrt(1.1))


def test_a_frozen_feature_counts_inserts_and_learns_nothing() -> None:
    bags = make_bags(make_job({}, {"frozen": True}))
    bags.tables["b"].assign([7], np.full((1, 4), 0.5, np.float32), now_s=0)
    assert learn(bags, steps=2) == {"a": -2.0, "b": 0.5}
    assert bags.tables["b"].read([7]).counts.tolist() == [1]


@pytest.mark.parametrize(
    ("feature", "sparse", "rule"),
    [
        ({"frozen": True, "ttl_s": 9}, {}, "features.a.ttl_s must be left out with frozen = true, got 9"),
        ({"frozen": True, "optimizer": SGD}, {}, "features.a.optimizer must be left out with frozen = true"),
        ({"optimizer": {"kind": "sgd", "beta1": 0.5}}, {}, "features.optimizer.beta1 must come with kind = 'adam'"),
        ({}, {"schedule": {"decay_steps": 9}}, "schedule.decay_steps must come with a decay, got 9 without"),
        ({}, {"schedule": {"decay": "cosine"}}, "schedule.decay_steps must be >= 1 with decay = 'cosine', got 0"),
        ({}, {"schedule": {"decay": "step", "decay_steps": 9, "power": 2.0}}, "schedule.power must come with decay = 'polynomial'"),
    ],
)
def test_settings_without_effect_are_refused(feature: dict[str, Any], sparse: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        make_job(feature, sparse={**SGD, **sparse})
