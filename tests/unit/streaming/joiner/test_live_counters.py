"""The joiner's live counters and the replica's dense feature from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monolith_py.config import CounterConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import counter_key, counter_values, decode_counts, encode_counts
from monolith_py.errors import WireError
from monolith_py.io import MemoryKv
from monolith_streaming.joiner.counters import counted

World = Any


def test_a_stored_counter_becomes_its_log_count_and_smoothed_rates() -> None:
    config = CounterConfig(prior_weight=20.0, prior_rate=0.3)
    values = counter_values(encode_counts(np.array([100, 40, 0])), config, num_tasks=2)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [np.log(101) / 10, (40 + 6) / 120, 6 / 120], rtol=1e-6)


def test_a_fid_never_counted_has_the_prior_rates() -> None:
    values = counter_values(None, CounterConfig(prior_rate=0.3), num_tasks=2)
    np.testing.assert_allclose(values, [0, 0.3, 0.3], rtol=1e-6)


def test_a_counter_of_another_number_of_tasks_is_refused() -> None:
    with pytest.raises(WireError, match="counter must have 24 bytes for 2 tasks, got 16"):
        counter_values(encode_counts(np.array([1, 1])), CounterConfig(), num_tasks=2)


def test_increments_add_up_by_fid_and_a_repeated_fid_of_a_row_counts_once() -> None:
    kv = MemoryKv()
    kv.write({counter_key("tags", 7): encode_counts(np.array([10, 5]))})
    tags = SparseColumn(np.array([7, 8, 7, 7]), np.array([2, 0, 2], np.int32))
    puts = counted(kv, FeatureColumns(3, {"tags": tags}), ["tags", "absent"], np.array([[1, 1], [1, 1], [1, 0]]))
    assert {key: decode_counts(value, 1).tolist() for key, value in puts.items()} == {"counter:tags:7": [12, 6], "counter:tags:8": [1, 1]}


def test_a_counter_of_another_number_of_tasks_begins_anew() -> None:
    """A successor job with one task more ended at its first step: faults.md, f09."""
    kv = MemoryKv()
    kv.write({counter_key("tags", 7): encode_counts(np.array([10, 5]))})
    tags = FeatureColumns(1, {"tags": SparseColumn(np.array([7]), np.ones(1, np.int32))})
    puts = counted(kv, tags, ["tags"], np.array([[1, 1, 0]]))
    assert decode_counts(puts["counter:tags:7"], 2).tolist() == [1, 1, 0]


def test_late_positives_increase_only_the_positives(world: World) -> None:
    job = world.job(counters={"enabled": True, "keys": ["user"]})
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, world.impression("r", items=(1, 2)), world.action("r", "click", 5), world.action("r", "like", 200, item=2))
    world.join(job, log, kv)
    assert decode_counts(kv.get_many([counter_key("user", sum(b"r"))])[0], 2).tolist() == [2, 1, 1]


def test_nothing_is_counted_if_counters_are_off(world: World) -> None:
    job = world.job(counters={"enabled": False, "keys": ["user"]})
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, world.impression("r"))
    world.join(job, log, kv)
    assert list(kv.scan("counter:")) == []
