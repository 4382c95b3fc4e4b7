"""A trainer that learns a backfill and goes live learns every example once, wherever it is stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import ConfigError, TopicMissing
from monolith_py.io.codec import decode_dead_letter, encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.observe import metrics
from monolith_py.training import Checkpoint
from monolith_streaming.trainer.handover import SourceOptions
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import StartOptions

World = Any
Make = Callable[..., ExampleBatch]
NOW_MS = 1_700_000_000_000
CUT_MS = 50_000
OLD, NEW = range(1, 41), range(101, 131)  # items of the time before and after the cut
REPLAYED = SourceOptions("old", live_from_ms=CUT_MS)


@pytest.fixture
def job(make_job: Callable[..., JobConfig]) -> JobConfig:
    return make_job(partitions=2, report_interval_s=0.001)


def append(log: Any, topic: str, examples: ExampleBatch, partition: int, replay: str | None = None) -> None:
    metadata = {"replay": replay} if replay else None
    log.append(topic, [encode_examples(examples, metadata)], time_ms=int(examples.times_ms.max()), partition=partition)


@pytest.fixture
def log(world: World, job: JobConfig, make_examples: Make) -> Any:
    """A replay of [0, CUT_MS) in topic `old`; in `examples` items of both times, also within one record."""
    log = world.MemoryLog()
    create_topics(log, job.log)
    log.create_topic("old", 2)
    for first in range(0, 40, 4):
        append(log, "old", make_examples(*OLD[first : first + 4], time_ms=1_000 * (first + 1)), first // 4 % 2, f"0-{CUT_MS}")
        if first >= 20:
            append(log, "examples", make_examples(*OLD[first : first + 4], time_ms=1_000 * (first + 1)), first // 4 % 2)
    end = encode_examples(make_examples(1).slice(0, 0), {"replay_end": f"0-{CUT_MS}"})
    log.append("old", [end], time_ms=40_000)
    mixed = make_examples(*OLD[-2:], *NEW[:3])
    mixed.times_ms[:] = [CUT_MS - 1, CUT_MS - 5, CUT_MS, CUT_MS + 1, CUT_MS + 2]
    append(log, "examples", mixed, 0)
    for first in range(3, 30, 3):
        append(log, "examples", make_examples(*NEW[first : first + 3], time_ms=CUT_MS + 1_000 * first), first // 3 % 2)
    late = make_examples(OLD[0], NEW[29])
    late.times_ms[:] = [1_000, CUT_MS + 30_000]  # a late retraction of the time before: the backfill has it
    append(log, "examples", late.slice(0, 1), 1)
    return log


class Learnt:
    """Trainings of one job, one after the other; `items` counts what the surviving state has learnt."""

    def __init__(self, job: JobConfig, log: Any) -> None:
        self.job, self.log, self.clock = job, log, ManualClock(NOW_MS)
        self.items: Counter[int] = Counter()
        self.saved: Counter[int] = Counter()

    def start(self, source: SourceOptions | None = REPLAYED, fresh: bool = False) -> OnlineTraining:
        self.training = OnlineTraining(self.job, self.log, self.clock, lambda: False, StartOptions(fresh, source=source))
        self.items = Counter(self.saved)
        return self.training

    def step(self) -> bool:
        examples = self.training._source.next_batch(8, 0.0, lambda: False)
        if examples is None:
            return False
        self.training._learner.learn(examples)
        self.items.update(examples.item_ids.tolist())
        self.clock.advance(0.01)
        return True

    def checkpoint(self) -> None:
        self.training.checkpoint()
        self.saved = Counter(self.items)

    @property
    def meta(self) -> Any:
        checkpoint = Checkpoint.newest(Path(self.job.trainer.checkpoint_dir))
        assert checkpoint is not None
        return checkpoint.meta


EVERY = Counter([*OLD, *NEW])


@pytest.mark.parametrize("saved_after", range(0, 12, 2))
def test_wherever_it_is_stopped_every_example_is_learnt_once(job: JobConfig, log: Any, saved_after: int) -> None:
    learnt = Learnt(job, log)
    learnt.start()
    for _ in range(saved_after):
        learnt.step()
    learnt.checkpoint()
    for _ in range(3):  # lost with the process
        learnt.step()
    learnt.start()
    while learnt.step():
        pass
    assert learnt.items == EVERY
    assert learnt.training.trainer.num_examples == sum(EVERY.values())
    learnt.checkpoint()
    assert learnt.meta.source.is_done and learnt.meta.offsets == {number: (log.end_offset("examples", number), 0) for number in range(2)}
    learnt.start()
    assert not learnt.step()


def test_the_job_s_live_examples_are_followed_afterwards(job: JobConfig, log: Any, make_examples: Make) -> None:
    learnt = Learnt(job, log)
    learnt.start()
    while learnt.step():
        pass
    append(log, "examples", make_examples(200, time_ms=CUT_MS + 99_000), 1)
    append(log, "old", make_examples(201, time_ms=10), 1)
    assert learnt.step() and not learnt.step()
    assert learnt.items == EVERY + Counter([200])


def test_run_to_the_end_learns_backfill_and_live_examples(job: JobConfig, log: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    learnt = Learnt(job, log)
    learnt.start().run(stop_at_end=True)
    assert learnt.training.trainer.num_examples == sum(EVERY.values())
    lines = [line for line in caplog.messages if "backfill" in line]
    assert lines[0] == f"backfill 'old', then 'examples' from {CUT_MS} ms"
    assert lines[-1] == f"backfill 'old' is learnt, going on with 'examples' from {CUT_MS} ms"
    assert metrics.BACKFILL_LAG_RECORDS._value.get() == 0


def test_progress_is_a_gauge_and_a_line(job: JobConfig, log: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    learnt = Learnt(job, log)
    learnt.start()
    learnt.step()
    learnt.training._report()
    assert metrics.BACKFILL_LAG_RECORDS._value.get() == 9
    assert "backfill 'old': 9 of 11 records left" in caplog.messages


def test_the_end_of_a_replay_is_where_live_examples_begin(job: JobConfig, log: Any, make_examples: Make) -> None:
    learnt = Learnt(job, log)
    learnt.start(SourceOptions("old"))
    assert learnt.training._source.meta is not None and learnt.training._source.meta.live_from_ms == CUT_MS
    log.create_topic("plain")
    append(log, "plain", make_examples(1), 0)
    away = job.model_copy(update={"trainer": job.trainer.model_copy(update={"checkpoint_dir": f"{job.trainer.checkpoint_dir}-2"})})
    with pytest.raises(ConfigError, match="--live-from must be given with --source plain, whose records name no replay"):
        Learnt(away, log).start(SourceOptions("plain"), fresh=True)


@pytest.mark.parametrize(
    ("source", "items"),
    [
        (SourceOptions(start=CUT_MS), NEW),
        (SourceOptions("examples", start=CUT_MS + 9_000), NEW[9:]),
        (SourceOptions(start={0: 6, 1: 5}), [*NEW[15:18], *NEW[21:], OLD[0]]),
        (
            SourceOptions("old", start={0: 4}, live_from_ms=CUT_MS + 27_000),
            [*OLD[32:36], *OLD[4:8], *OLD[12:16], *OLD[20:24], *OLD[28:32], *OLD[36:40], *NEW[27:]],
        ),
        (SourceOptions("old", start=30_000, live_from_ms=CUT_MS + 27_000), [*OLD[32:], *NEW[27:]]),
    ],
)
def test_a_new_model_may_start_at_a_time_or_an_offset(job: JobConfig, log: Any, source: SourceOptions, items: Any) -> None:
    learnt = Learnt(job, log)
    learnt.start(source)
    while learnt.step():
        pass
    assert learnt.items == Counter(items)
    learnt.checkpoint()
    learnt.start(source)
    assert not learnt.step()
    learnt.start(None)
    assert not learnt.step(), "a restart without the options goes on, too"


def test_a_replay_that_has_not_ended_is_refused(job: JobConfig, log: Any) -> None:
    log.records["old"][0].pop()
    for source in (SourceOptions("old"), REPLAYED):
        with pytest.raises(ConfigError, match="--source old must be a replay that has ended, got one that has not"):
            Learnt(job, log).start(source)


def test_another_source_than_that_of_the_checkpoint_is_refused(job: JobConfig, log: Any) -> None:
    learnt = Learnt(job, log)
    learnt.start()
    known = f"topic 'old' from None, live from {CUT_MS}"
    with pytest.raises(ConfigError, match=f"must be those of the checkpoint, {known}, got topic 'old' from None, live from None"):
        learnt.start(SourceOptions("old"))


def test_a_source_for_a_model_that_began_without_is_refused(job: JobConfig, log: Any) -> None:
    learnt = Learnt(job, log)
    learnt.start(None)
    with pytest.raises(ConfigError, match="must be those of the checkpoint, the job's examples, got topic 'old'"):
        learnt.start()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SourceOptions(start={2: 0}), r"--from must name partitions of 'examples', 0 to 1, got \[2\]"),
        (SourceOptions(start=5, live_from_ms=5), "--live-from must come with --source, got 5 without another topic"),
    ],
)
def test_options_without_sense_are_refused(job: JobConfig, log: Any, source: SourceOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Learnt(job, log).start(source)


def test_a_topic_that_is_missing_is_an_error(job: JobConfig, log: Any) -> None:
    with pytest.raises(TopicMissing, match="'none'"):
        Learnt(job, log).start(SourceOptions("none", live_from_ms=1))


def test_live_examples_that_may_be_deleted_are_a_warning(world: World, job: JobConfig, log: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Trimmed(world.MemoryLog):  # type: ignore[misc]
        def start_offset(self, topic: str, partition: int = 0) -> int:
            return 7 if topic == "examples" else 0

        def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
            return max(self.start_offset(topic, partition), super().offset_at(topic, partition, time_ms))

    trimmed = Trimmed()
    trimmed.records = log.records
    Learnt(job, trimmed).start()
    assert sum("examples after the backfill may be deleted already" in line for line in caplog.messages) == 2


def test_a_bad_example_of_the_backfill_is_a_dead_letter_of_its_topic(job: JobConfig, log: Any, make_examples: Make) -> None:
    poisoned = make_examples(91, time_ms=49_000)
    poisoned.features.dense["age"][:] = np.float32(3e38)
    append(log, "old", poisoned, 1)
    learnt = Learnt(job, log)
    learnt.start().run(stop_at_end=True)
    (letter,) = (decode_dead_letter(record.value) for record in log.read("dead_letters", 0, 0, 10))
    assert (letter.topic, letter.partition, letter.offset) == ("old", 1, 5)
