"""The joiner's live counters and the replica's dense feature from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from monolith_py.config import CounterConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.io import MemoryKv
from monolith_streaming.joiner.counters import counted

World = Any


def counters(*tasks: str, scope: str = "shop:") -> LiveCounters:
    return LiveCounters(CounterConfig(keys=("tags", "absent"), prior_weight=20.0, prior_rate=0.3), scope, tasks)


def test_a_stored_counter_becomes_its_log_count_and_smoothed_rates() -> None:
    some = counters("click", "like")
    values = some.values(some.encode(np.array([[100, 40], [100, 0]])))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [np.log(101) / 10, (40 + 6) / 120, 6 / 120], rtol=1e-6)


def test_a_fid_never_counted_has_the_prior_rates() -> None:
    np.testing.assert_allclose(counters("click", "like").values(None), [0, 0.3, 0.3], rtol=1e-6)


def tags(fids: list[int], lengths: list[int]) -> FeatureColumns:
    return FeatureColumns(len(lengths), {"tags": SparseColumn(np.array(fids), np.array(lengths, np.int32))})


def test_increments_add_up_by_fid_and_a_repeated_fid_of_a_row_counts_once() -> None:
    kv, some = MemoryKv(), counters("click")
    kv.write({some.key("tags", 7): some.encode(np.array([[10, 5]]))})
    puts, _ = counted(kv, some, tags([7, 8, 7, 7], [2, 0, 2]), np.array([[1, 1], [1, 1], [1, 0]]))
    assert {key: some.decode(value).tolist() for key, value in puts.items()} == {
        some.key("tags", 7): [[12, 6]],
        some.key("tags", 8): [[1, 1]],
    }


def test_counters_of_a_job_with_other_tasks_go_on_by_name() -> None:
    """A successor job with one task more ended at its first step, one with the tasks in another order swapped them: faults.md, f09."""
    kv, before, after = MemoryKv(), counters("click", "like"), counters("share", "like", "click")
    kv.write({before.key("tags", 7): before.encode(np.array([[10, 5], [10, 1]]))})
    puts, _ = counted(kv, after, tags([7], [1]), np.array([[1, 1, 0, 1]]))
    assert after.decode(puts[after.key("tags", 7)]).tolist() == [[1, 1], [11, 1], [11, 6]]


def test_a_damaged_counter_begins_anew() -> None:
    kv, some = MemoryKv(), counters("click")
    kv.write({some.key("tags", 7): b"damaged"})
    puts, _ = counted(kv, some, tags([7], [1]), np.array([[1, 1]]))
    assert some.decode(puts[some.key("tags", 7)]).tolist() == [[1, 1]]


def test_two_jobs_on_one_store_count_for_themselves(world: World) -> None:
    """A second job beside the first, as the operator's guide has it, counted each event twice for both."""
    kv, found = MemoryKv(), []
    for prefix in ("", "again."):
        job = world.job(counters={"enabled": True, "keys": ["user"]})
        job = job.model_copy(update={"log": job.log.model_copy(update={"topic_prefix": prefix})})
        log = world.log(job)
        world.append(job, log, world.impression("r"), world.action("r", "click", 5))
        world.join(job, log, kv)
        found.append(LiveCounters.of(job).decode(kv.get_many([LiveCounters.of(job).key("user", sum(b"r"))])[0]).tolist())
    assert found == [[[1, 1], [1, 0]]] * 2


def test_late_positives_increase_only_the_positives(world: World) -> None:
    job = world.job(counters={"enabled": True, "keys": ["user"]})
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, world.impression("r", items=(1, 2)), world.action("r", "click", 5), world.action("r", "like", 200, item=2))
    world.join(job, log, kv)
    some = LiveCounters.of(job)
    assert some.decode(kv.get_many([some.key("user", sum(b"r"))])[0]).tolist() == [[2, 1], [2, 1]]


def test_nothing_is_counted_if_counters_are_off(world: World) -> None:
    job = world.job(counters={"enabled": False, "keys": ["user"]})
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, world.impression("r"))
    world.join(job, log, kv)
    assert list(kv.scan("counter:")) == []
