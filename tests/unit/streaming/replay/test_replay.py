"""Replay through Beam gives the online joiner's examples, and gives them once."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from monolith_py.errors import ConfigError
from monolith_py.io import Log, SqliteKv, open_log
from monolith_py.io.codec import encode_action
from monolith_streaming.replay.beam import run_replay

World = Any
NUM_REQUESTS = 400


@pytest.fixture(scope="module")
def joined(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stream with positives, negatives, late, early, repeated and disordered records in a SQLite log, joined online."""
    folder = tmp_path_factory.mktemp("replay")
    job = world.job(
        f"sqlite:///{folder / 'log'}",
        f"sqlite:///{folder / 'kv.db'}",
        partitions=2,
        terminal_actions=["end"],
        negative_rate=0.5,
        negative_rates=[{"feature": "tags", "value": 20, "rate": 0.25}],
        examples_per_record=32,
    )
    log = open_log(job.log.url)
    world.create_topics(log, job)
    write_stream(world, job, log)
    kv = SqliteKv(folder / "kv.db")
    world.join(job, log, kv)
    kv.close()
    yield job, log
    log.close()


def write_stream(world: World, job: Any, log: Log) -> None:
    rng = random.Random(3)
    arrivals = []
    for index in range(NUM_REQUESTS):
        at_s, request_id, items = index * 7.0, f"r{index}", rng.sample(range(1, 9), k=rng.randint(1, 3))
        jitters_s = rng.uniform(0, 10), rng.uniform(0, 10)
        kinds = rng.choices(["click", "like", "end", "share"], k=rng.randint(0, 4))
        delays_s = sorted(rng.choice([rng.uniform(0, 60), rng.uniform(90, 1300)]) for _ in kinds)
        arrivals += [(at_s + jitters_s[0], index % 2, world.impression(request_id, at_s, items))] * rng.choice([1, 1, 1, 2])
        for kind, delay_s in zip(kinds, delays_s, strict=True):
            action = world.action(request_id, kind, at_s + delay_s, item=rng.choice(items))
            arrivals += [(at_s + delay_s + jitters_s[1], index % 2, action)] * rng.choice([1, 1, 2])
    arrivals.sort(key=lambda arrival: arrival[0])
    for partition in range(2):
        world.append(job, log, *(event for _, number, event in arrivals if number == partition), partition=partition)


def replay(world: World, job: Any, start_s: float = 0, end_s: float = NUM_REQUESTS * 7.0, output: str | None = None) -> Any:
    return run_replay(job, start_ms=world.now_ms + round(start_s * 1000), end_ms=world.now_ms + round(end_s * 1000), output=output)


def test_replay_gives_the_online_joiner_s_examples_once_however_often_it_runs(world: World, joined: Any) -> None:
    job, log = joined
    online = world.examples(job, log)
    assert {kind for _, _, kind, *_ in online} == {0, 1}
    assert sum(online.values()) > NUM_REQUESTS
    first = replay(world, job)
    assert first.topic == f"examples-replay-{world.now_ms}-{world.now_ms + NUM_REQUESTS * 7000}"
    assert (first.requests, first.malformed, first.records_present) == (NUM_REQUESTS, 0, 0)
    assert first.labelled + first.retraction == sum(online.values())
    assert world.examples(job, log, first.topic) == online
    second = replay(world, job)
    assert (second.records_written, second.records_present) == (0, first.records_written)
    assert world.examples(job, log, first.topic) == online


def test_ranges_add_up_to_the_whole(world: World, joined: Any) -> None:
    job, log = joined
    total: Counter[Any] = Counter()
    for start_s, end_s in [(0, 1000.5), (1000.5, 2000), (2000, 2800)]:
        total += world.examples(job, log, replay(world, job, start_s, end_s).topic)
    assert total == world.examples(job, log)


def test_examples_are_in_the_order_in_which_their_labels_were_known(world: World, joined: Any) -> None:
    job, log = joined
    labelled, retracted = set(), set()
    newest_ms = 0
    for batch in world.batches(job, log, replay(world, job, 100, 900).topic):
        for request_id, item, kind, time_ms in zip(batch.request_ids, batch.item_ids, batch.kinds, batch.times_ms, strict=True):
            if kind == 0:
                labelled.add((request_id, item))
            else:
                retracted.add((request_id, item))
                assert (request_id, item) in labelled
            newest_ms = max(newest_ms, int(time_ms))
            # Labels are known by the end of the late window at the latest.
            assert int(time_ms) >= newest_ms - 1_100_000
        newest_ms = newest_ms if len(batch) == 32 else 0  # the last record of the partition may be short; the next one starts again
    assert len(retracted) > 10


def test_an_interrupted_replay_continues_after_its_last_record(world: World, joined: Any) -> None:
    job, log = joined
    whole = replay(world, job, 100, 900, output="whole")
    log.create_topic("half", 2)
    for partition in range(2):
        records = log.read("whole", partition, 0, 1000)
        log.append("half", [record.value for record in records[: len(records) // 2]], time_ms=1, partition=partition)
    rest = replay(world, job, 100, 900, output="half")
    assert rest.records_present > 0 and rest.records_written > 0
    assert rest.records_present + rest.records_written == whole.records_written
    assert world.examples(job, log, "half") == world.examples(job, log, "whole")


def test_a_replay_may_go_into_a_topic_that_has_other_examples(world: World, joined: Any) -> None:
    job, log = joined
    first = replay(world, job, 100, 300, output="mixed")
    second = replay(world, job, 300, 500, output="mixed")
    again = replay(world, job, 100, 300, output="mixed")
    assert (again.records_written, again.records_present) == (0, first.records_written)
    assert second.records_present == 0
    assert max(world.examples(job, log, "mixed").values()) == 1


def test_a_replay_by_other_rules_into_the_same_topic_is_refused(world: World, joined: Any) -> None:
    job, _ = joined
    replay(world, job, 100, 200, output="ruled")
    other = job.model_copy(update={"joiner": job.joiner.model_copy(update={"window_s": 5.0})})
    with pytest.raises(ConfigError, match="replay output 'ruled'"):
        replay(world, other, 100, 200, output="ruled")


def test_a_malformed_record_is_counted_and_left_out(world: World, tmp_path: Path) -> None:
    job = world.job(f"sqlite:///{tmp_path / 'log'}")
    log = open_log(job.log.url)
    world.create_topics(log, job)
    log.append("impressions", [b"\xff\xff"], time_ms=world.now_ms)
    world.append(job, log, world.impression("r", 1), world.action("r", "click", 2), world.action("nobody", "click", 2))
    log.append("actions", [b"\xff\xff"], time_ms=world.now_ms)
    result = replay(world, job)
    assert (result.malformed, result.requests, result.labelled, result.actions_without_impression) == (2, 1, 1, 1)
    log.close()


def test_an_empty_range_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=f"replay end must be after its start {world.now_ms}, got {world.now_ms}"):
        replay(world, world.job(), 0, 0)


@pytest.mark.parametrize("place", ["impression", "action", "both"])
def test_a_record_with_a_broken_clock_hides_no_range_behind_it(world: World, tmp_path: Path, place: str) -> None:
    """A replay of any later range ended there: 1 positive instead of 60, exit 0: faults.md, f07; streams.md, E1."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}", terminal_actions=["click"], agreeing_records=5)
    log = open_log(job.log.url)
    world.create_topics(log, job)
    if place != "action":
        world.append(job, log, world.impression("broken", time_ms=world.now_ms * 1000))
        world.append(job, log, world.impression("ahead", 86_400))
    if place != "impression":
        broken = world.action("broken", "click", 0)
        world.append(job, log, type(broken)("broken", 1, "click", world.now_ms * 1000), world.action("ahead", "click", 86_400))
    for number in range(60):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "click", number + 0.5))
    log.close()
    result = replay(world, job, 0, 60)
    log = open_log(job.log.url)
    labels = [tuple(int(v[row]) for v in b.labels.values()) for b in world.batches(job, log, result.topic) for row in range(len(b))]
    log.close()
    assert labels == [(1, 0)] * 60


def test_actions_that_were_imported_later_are_found_by_the_time_in_them(world: World, tmp_path: Path) -> None:
    """A plain producer's timestamp is the time of sending: streams.md, K8."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}")
    log = open_log(job.log.url)
    world.create_topics(log, job)
    for number in range(60):
        world.append(job, log, world.impression(f"r{number}", number))
        action = world.action(f"r{number}", "click", number + 0.5)
        log.append("actions", [encode_action(action)], time_ms=action.time_ms + 30 * 86_400_000)
    log.close()
    result = replay(world, job, 0, 60)
    log = open_log(job.log.url)
    labels = [int(v) for b in world.batches(job, log, result.topic) for v in b.labels["is_click"]]
    log.close()
    assert labels == [1] * 60


def test_a_replay_that_finds_nothing_says_so(world: World, joined: Any, caplog: pytest.LogCaptureFixture) -> None:
    job, _ = joined
    result = replay(world, job, -9_000, -8_000)
    assert result.requests == 0
    assert any("has no impression in 'impressions'" in line for line in caplog.messages)
