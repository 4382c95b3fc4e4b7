"""No request makes a record, a value or a step larger than what carries it, and no action costs more than the one before."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from prometheus_client import REGISTRY

from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.io.codec import examples_metadata, step_from_metadata
from monolith_streaming.joiner.request import Outcome, Reason, Request, SeenAction
from monolith_streaming.joiner.rules import MAX_EARLY, Rules, advance, see_action, see_impression

World = Any


def history(num_fids: int) -> FeatureColumns:
    return FeatureColumns(1, {"user": SparseColumn(np.arange(num_fids), np.array([num_fids], np.int32))})


def test_records_of_a_long_user_history_are_cut_at_1_mb(world: World) -> None:
    """300 candidates and 9,000 fids made a record of 18 MB, which Kafka refuses for ever: streams.md, K1."""
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r", items=range(300), shared=history(9_000)))
    world.join(job, log)
    sizes = [len(record.value) for record in log.read("examples", 0, 0, 1_000)]
    assert max(sizes) <= 1_000_000
    assert [row[1] for row in world.labels(job, log)] == list(range(300))


def test_records_are_cut_to_the_limit_of_their_topic(world: World) -> None:
    """A topic made by other tools has Kafka's own limit, or a smaller one: streams.md, K3."""
    job = world.job()
    log = world.log(job)
    log.max_record_bytes = 30_000
    world.append(job, log, world.impression("r", items=range(300), shared=history(300)))
    world.join(job, log)
    assert max(len(record.value) for record in log.read("examples", 0, 0, 1_000)) <= 30_000
    assert len(world.labels(job, log)) == 300


def test_requests_that_close_together_are_written_in_several_steps(world: World) -> None:
    """4,096 requests that close in one step made 86 MB of records at once: faults.md, f24."""

    job = world.job()
    log = world.log(job)
    for number in range(60):
        world.append(job, log, world.impression(f"r{number}", number / 100, range(20), shared=history(9_000)))
    world.append(job, log, world.impression("last", 5_000), world.action("x", "click", 5_000))
    world.join(job, log)
    assert len(world.labels(job, log)) == 60 * 20 + 1
    num_bytes: Counter[int] = Counter()
    for record in log.records["examples"][0]:
        step = step_from_metadata(examples_metadata(record.value))
        assert step is not None
        num_bytes[step.number] += len(record.value)
    assert max(num_bytes.values()) < 60 << 20 < sum(num_bytes.values()), "60 x 20 examples of 72 KB are 86 MB"


def test_actions_that_share_a_wrong_request_id_are_bounded(world: World) -> None:
    """All clicks with the request id "undefined": streams.md, C5."""
    job = world.job()
    log = world.log(job)
    for number in range(1_000):
        world.append(job, log, world.action("undefined", "click", number / 100, item=number))
    world.pass_time(job, log, 200)
    world.join(job, log)
    reasons = [reason for _, _, reason in world.dead_letters(job, log)]
    assert len(reasons) == 1_000
    assert sum("must have at most 256 actions before its impression" in reason for reason in reasons) == 1_000 - MAX_EARLY


def seen(world: World, kind: str, at_s: float, item: int = 1, value: float = 1.0) -> SeenAction:
    return SeenAction(world.action("r", kind, at_s, item, value), 0, b"")


def test_copies_of_an_action_that_waits_take_no_place(world: World) -> None:
    rules, request, outcome = Rules.of(world.job()), Request("r"), Outcome()
    for _ in range(10_000):
        see_action(rules, request, seen(world, "click", 5), outcome)
    assert len(request.early) == 1
    see_action(rules, request, seen(world, "click", 4), outcome)
    see_action(rules, request, seen(world, "click", 5, value=0.0), outcome)
    assert len(request.early) == 3
    see_impression(rules, request, world.now_ms, [1, 2], outcome)
    for _ in range(10_000):
        see_action(rules, request, seen(world, "like", 150), outcome)
    assert len(request.late) == 1
    advance(rules, request, world.now_ms + 100_000, outcome)
    assert [emission.labels for emission in outcome.emissions] == [1, 2, 0]
    assert outcome.refused == []


def test_a_candidate_twice_among_many_is_found_in_one_pass(world: World) -> None:
    """It took 6.6 s of an impression of 30,000 candidates: streams.md, C4."""

    class CountedItems(list[int]):
        looks = 0

        def index(self, *arguments: Any) -> int:
            self.looks += 1
            return super().index(*arguments)

    rules, request = Rules.of(world.job()), Request("r")
    items = CountedItems([*range(1_000), 7])
    see_impression(rules, request, world.now_ms, items, Outcome())
    assert items.looks == 0
    assert [row for row, status in enumerate(request.statuses) if status == 3] == [1_000]


def test_an_action_in_another_partition_than_its_impression_is_told_from_one_without(world: World) -> None:
    """librdkafka's default partitioner is not Kafka's: streams.md, K7."""
    job = world.job(partitions=4)
    log = world.log(job)
    for partition in range(4):
        world.append(job, log, world.action("r1", "click", 1), partition=partition)
    world.pass_time(job, log, 200)
    world.join(job, log)
    reasons = [reason for _, _, reason in world.dead_letters(job, log)]
    wrong = [reason for reason in reasons if reason.startswith("action must be in partition 0 of 4 by murmur2 of its request id, got ")]
    assert (len(reasons), len(wrong)) == (4, 3)
    assert REGISTRY.get_sample_value("monolith_actions_unmatched_total", {"reason": "wrong_partition"})


def test_a_second_impression_of_a_request_is_counted(world: World) -> None:
    job = world.job()
    log = world.log(job)
    before = REGISTRY.get_sample_value("monolith_impressions_repeated_total") or 0.0
    world.append(job, log, world.impression("r", items=(1,)), world.impression("r", items=(2,)))
    world.join(job, log)
    assert REGISTRY.get_sample_value("monolith_impressions_repeated_total") == before + 1


def test_impressions_without_an_action_of_a_task_s_kind_are_said(world: World) -> None:
    from monolith_streaming.joiner.census import Census

    census = Census(Rules.of(world.job()))
    assert census.report(0.0) == []
    for _ in range(1_000):
        census.note(1, {})
    census.note(0, {"click": 1})
    assert census.report(59.0) == []
    assert census.report(60.0) == ["like"]
    assert census.report(120.0) == [], "no impression since"


def test_a_refused_early_action_has_its_own_reason(world: World) -> None:
    rules, request, outcome = Rules.of(world.job()), Request("r"), Outcome()
    for item in range(MAX_EARLY + 1):
        see_action(rules, request, seen(world, "click", 5, item), outcome)
    assert [reason for _, reason in outcome.refused] == [Reason.TOO_MANY]
