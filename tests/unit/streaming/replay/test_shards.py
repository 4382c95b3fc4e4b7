"""A shard of a replay gives the examples of the online joiner with bounded memory, from log and archive alike, by one writer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action, Impression
from monolith_py.errors import Fenced
from monolith_py.io import Log
from monolith_py.io.archive import ArchiveFolder
from monolith_py.io.codec import decode_examples
from monolith_py.io.log.topics import Topics
from monolith_streaming.archive.archiver import Archiver
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic
from monolith_streaming.replay.beam import rules_text
from monolith_streaming.replay.join import Joining, ShardJoiner
from monolith_streaming.replay.output import Step
from monolith_streaming.replay.source import BLOCK_RECORDS, Input, Range, shards_of
from monolith_streaming.replay.topic_output import TopicOutput

World = Any


def test_a_worker_that_was_given_up_cannot_append(world: World, stream: Any) -> None:
    """A zombie wrote beside its successor: each record was there twice."""
    job, log, _ = stream
    log.create_topic("fenced", 1)
    output = TopicOutput(job, "fenced", "1-2", "rules")
    with closing(output.open(0, lambda *_: None)) as zombie, closing(output.open(0, lambda *_: None)) as successor:
        successor.write(0, Step(1, [b"one"]))
        with pytest.raises(Fenced):
            zombie.write(0, Step(1, [b"one"]))
    assert [record.value for record in log.read("fenced", 0, 0, 10)] == [b"one"]


def test_the_text_of_the_rules_is_the_same_in_every_process(world: World) -> None:
    """The order of a set of texts is another one in each process, so a second run took the files of the first for those of other rules."""
    kinds = [f"kind_{number}" for number in range(20)]
    assert repr(sorted(kinds)) in rules_text(world.job(terminal_actions=kinds), None)


def joined(job: JobConfig, log: Log, end_ms: int, archive: Path | None = None) -> tuple[list[bytes], Counter[str], int]:
    """The records of partition 0 up to `end_ms`, the counts, and the largest number of requests in memory."""
    topics, counts = Topics.of(job.log), Counter[str]()
    source = Input({InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}, archive)

    def count(name: str, increment: int) -> None:
        counts[name] += increment

    joining = Joining(job, source, log, {}, 2_000_000_000_000, 1_000_000, count)
    (shard,) = shards_of(Range(1_600_000_000_000, end_ms), Rules.of(job), 1 << 60)
    joiner = ShardJoiner(joining, 0, shard)
    values, most = [], 0
    for step in joiner.steps():
        values += step.values
        most = max(most, joiner.num_requests)
    return values, counts, most


def rows_of_records(values: Iterable[bytes]) -> Counter[tuple[str, int, int, tuple[float, ...]]]:
    rows = Counter[tuple[str, int, int, tuple[float, ...]]]()
    for batch in map(decode_examples, values):
        labels = zip(*(column.tolist() for column in batch.labels.values()), strict=True)
        rows.update(zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), labels, strict=True))
    return rows


def disordered(world: World, seed: int, num_requests: int, late_s: float) -> list[tuple[float, Impression | Action]]:
    """Time of arrival and event: some arrive up to `late_s` later than their time, and some have clocks that are ahead or behind."""
    rng = random.Random(seed)
    arrivals: list[tuple[float, Impression | Action]] = []
    for number in range(num_requests):
        at_s = number * 3.0
        arrivals.append((at_s + rng.choice([0, rng.uniform(0, late_s)]), world.impression(f"r{number}", at_s, [1, 2])))
        for kind in rng.sample(["click", "like"], k=rng.randint(0, 2)):
            acted_s = at_s + rng.choice([rng.uniform(0, 60), rng.uniform(90, 1200)])
            arrivals.append((acted_s + rng.choice([0, rng.uniform(0, late_s)]), world.action(f"r{number}", kind, acted_s)))
        if rng.random() < 0.02:
            clock_s = rng.choice([-1e8, -3600, 50_000, 200_000, 300_000])
            arrivals.append((at_s + late_s + 40, world.action(f"r{number}", "click", at_s + clock_s, 2)))
    return sorted(arrivals, key=lambda arrival: arrival[0])


def join_live(world: World, job: JobConfig, log: Log, arrivals: Iterable[tuple[float, Impression | Action]]) -> None:
    """Append and join event by event, as they arrive."""
    clock = ManualClock(world.now_ms)
    joiner = world.joiner(job, log, clock=clock)
    for at_s, event in arrivals:
        clock.advance(at_s - (clock.now_ms() - world.now_ms) / 1000)
        world.append(job, log, event)
        joiner.step()
    joiner.close_all()


@pytest.mark.parametrize("late_s", [8.0, 400.0])
def test_late_records_and_wrong_clocks_change_no_example_of_a_live_joiner(world: World, late_s: float) -> None:
    job = world.job(negative_rate=0.5, agreeing_records=5, idle_timeout_s=60)
    log = world.log(job)
    join_live(world, job, log, disordered(world, 1, 1500, late_s))
    values, counts, most = joined(job, log, 2_000_000_000_000)
    live = rows_of_records(record.value for record in log.read("examples", 0, 0, 1_000_000))
    replayed = rows_of_records(values)
    assert live == replayed
    assert counts["requests"] + counts["impressions_late"] == 1500 and counts["retraction"] > 100
    # Those whose window their topic had passed.
    assert counts["impressions_late"] == len([letter for letter in world.dead_letters(job, log) if letter[0] == "impressions"])
    assert (counts["impressions_late"] > 0) == (late_s > 110)
    # Requests of window and late window, those that were read ahead, and early actions.
    assert most < 1500 // 3


def test_days_of_silence_lose_no_record_and_a_clock_days_ahead_is_refused(world: World) -> None:
    """A joiner with a backlog refuses three records of each topic after a day of silence."""
    job = world.job()
    log = world.log(job)
    at_s = [3 * 86_400.0 * (number // 30) + number for number in range(90)]
    for number, when_s in enumerate(at_s):
        world.append(job, log, world.impression(f"r{number}", when_s), world.action(f"r{number}", "click", when_s + 1))
        if number == 45:
            world.append(job, log, world.impression("ahead", when_s + 2 * 86_400))
    values, counts, _ = joined(job, log, 2_000_000_000_000)
    assert set(rows_of_records(values)) == {(f"r{number}", 1, 0, (1.0, 0.0)) for number in range(90)}
    assert (counts["requests"], counts["malformed"], counts["actions_refused"]) == (90, 1, 0)


def test_log_and_archive_give_the_same_records_whatever_is_malformed(world: World, tmp_path: Path) -> None:
    job = world.job("sqlite:///unused", examples_per_record=64)
    log = world.log(job)
    rng = random.Random(5)
    for _, event in disordered(world, 2, 2 * BLOCK_RECORDS, 300.0):
        if rng.random() < 0.2:
            log.append(rng.choice(["impressions", "actions"]), [b"\xff\xff"], time_ms=event.time_ms)
        world.append(job, log, event)
    archiver = Archiver(job, log, ArchiveFolder(tmp_path), ManualClock(2_000_000_000_000))
    archiver.archive(archiver.ends())
    of_log, of_archive = joined(job, log, 2_000_000_000_000), joined(job, log, 2_000_000_000_000, tmp_path)
    assert of_log[0] == of_archive[0] and len(of_log[0]) > 40
    assert of_log[1]["malformed"] > 500
