"""The schema: one order of features for all processes."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.schema import Schema


@pytest.fixture
def job() -> JobConfig:
    settings: dict[str, Any] = {
        "name": "test",
        "log": {"url": "sqlite:///log"},
        "kv": {"url": "memory:"},
        "features": [{"name": name, "source": "item", "dim": 8} for name in ("zebra", "ant", "bee")],
        "dense_features": [{"name": "price", "source": "item", "dim": 3}, {"name": "age", "source": "user"}],
        "counters": {"enabled": True, "keys": ["bee", "zebra"]},
        "tasks": [{"name": "click", "action": "click"}, {"name": "buy", "action": "order"}],
        "trainer": {"checkpoint_dir": "checkpoints"},
    }
    return parse_job(settings)


def test_features_keep_the_order_of_the_settings_and_counters_are_last(job: JobConfig) -> None:
    schema = Schema.of(job)
    assert schema.sparse_names == ("zebra", "ant", "bee")
    assert schema.dense_names == ("price", "age", "counter_bee", "counter_zebra")
    assert schema.tasks == ("click", "buy")


def test_widths_are_sums_of_dims_and_a_counter_has_a_count_and_a_rate_for_each_task(job: JobConfig) -> None:
    schema = Schema.of(job)
    assert [feature.dim for feature in schema.dense_features] == [3, 1, 3, 3]
    assert (schema.sparse_width, schema.dense_width) == (24, 10)


def test_disabled_counters_are_no_features(job: JobConfig) -> None:
    off = job.model_copy(update={"counters": job.counters.model_copy(update={"enabled": False})})
    assert Schema.of(off).dense_names == ("price", "age")
