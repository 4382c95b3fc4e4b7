"""The online training loop: dead letters, a model that is not finite, checkpoints kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.errors import CheckpointError, Fenced, ModelNotFinite
from monolith_py.io.codec import decode_dead_letter, decode_examples, encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.sync import decode_delta
from monolith_py.sync.verdicts import Verdict, encode_verdict
from monolith_py.training import Checkpoint
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import StartOptions

World = Any
NOW_MS = 1_700_000_000_000


def make_log(world: World, job: JobConfig) -> Any:
    log = world.MemoryLog()
    create_topics(log, job.log)
    return log


def append(log: Any, examples: ExampleBatch, partition: int = 0) -> None:
    log.append("examples", [encode_examples(examples)], time_ms=int(examples.times_ms[-1]), partition=partition)


def train(job: JobConfig, log: Any, clock: ManualClock) -> OnlineTraining:
    training = OnlineTraining(job, log, clock, lambda: False)
    training.run(stop_at_end=True)
    return training


def steps_saved(job: JobConfig) -> list[int]:
    return [checkpoint.meta.step for checkpoint in reversed(Checkpoint.all_in(Path(job.trainer.checkpoint_dir)))]


def test_the_dead_letter_of_a_poisoned_example_names_its_own_record(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(partitions=2)
    log = make_log(world, job)
    append(log, make_examples(1, 2, time_ms=1_000), partition=0)
    append(log, make_examples(3, 4, time_ms=2_000), partition=1)
    poisoned = make_examples(5, 6, 7, time_ms=3_000)
    poisoned.features.dense["age"][2] = 3e38  # the loss of item 7 is not finite
    append(log, poisoned, partition=1)
    append(log, make_examples(8, time_ms=4_000), partition=0)

    training = train(job, log, ManualClock(NOW_MS))

    assert training.trainer.num_examples == 7
    (letter,) = (decode_dead_letter(record.value) for record in log.read("dead_letters", 0, 0, 10))
    assert (letter.topic, letter.partition, letter.offset) == ("examples", 1, 1)
    assert decode_examples(letter.value).item_ids.tolist() == [7]


def test_a_model_that_is_not_finite_stops_the_trainer(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job()
    log = make_log(world, job)
    append(log, make_examples(1, 2))
    training = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
    with torch.no_grad():
        next(training.trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(ModelNotFinite, match="must be finite, got NaN or infinity after 0 batches"):
        training.step()
    assert log.end_offset("dead_letters") == 0


def test_the_newest_checkpoints_are_kept(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(checkpoints_kept=2)
    log, clock = make_log(world, job), ManualClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)
    for item in range(1, 5):
        append(log, make_examples(item))
        assert training.step()
        training.checkpoint()
    assert steps_saved(job) == [3, 4]


@pytest.mark.parametrize("is_guarded", [False, True])
def test_the_newest_checkpoint_that_the_guard_allows_is_kept(
    is_guarded: bool, world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(checkpoints_kept=1)
    job = job.model_copy(update={"serving": job.serving.model_copy(update={"guarded": is_guarded})})
    log, clock = make_log(world, job), ManualClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)

    def learn(item: int) -> None:
        append(log, make_examples(item))
        assert training.step()
        training.checkpoint()

    def judge(good_until: int, *, held: bool) -> None:
        log.append("verdicts", [encode_verdict(Verdict(good_until, held=held))], time_ms=NOW_MS)

    learn(1)
    learn(2)
    judge(log.end_offset("updates"), held=True)
    for item in range(3, 6):
        learn(item)
    assert steps_saved(job) == [2, 5], "held"
    judge(log.end_offset("updates"), held=False)
    learn(6)  # not judged yet
    assert steps_saved(job) == ([5, 6] if is_guarded else [6])


def test_a_checkpoint_is_written_every_interval_in_which_something_was_learnt(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(checkpoint_interval_s=10.0, checkpoints_kept=100)
    log, clock = make_log(world, job), ManualClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)

    append(log, make_examples(1))
    training.step()
    clock.advance(9.0)
    training.step()
    assert steps_saved(job) == [0]
    clock.advance(1.5)
    while len(steps_saved(job)) == 1:  # it is written beside the steps
        training.step()
    assert steps_saved(job) == [0, 1]
    clock.advance(100.0)
    training.step()
    training.checkpoint()
    assert steps_saved(job) == [0, 1], "nothing was learnt since"


def test_quality_is_logged_while_training_and_kept_in_the_checkpoint(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "monolith_streaming.trainer.loop")
    job = make_job(report_interval_s=5.0)
    log, clock = make_log(world, job), ManualClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)

    def lines() -> list[str]:
        return [record.message for record in caplog.records if record.message.startswith("click, ")]

    append(log, served(make_examples(*range(1, 9)), 0.9))
    training.step()
    assert len(lines()) == 2 and "click, served by live 3: AUC" in lines()[0] and "click, before learning: AUC" in lines()[1]
    append(log, served(make_examples(*range(9, 17)), 0.9))
    training.step()
    assert len(lines()) == 2, "the interval has not passed"
    clock.advance(5.0)
    training.step()
    assert len(lines()) == 4 and "of 16 predictions" in lines()[-1]
    clock.advance(5.0)
    training.step()
    assert len(lines()) == 4, "nothing was learnt since"
    training.run(stop_at_end=True)
    checkpoint = Checkpoint.newest(Path(job.trainer.checkpoint_dir))
    assert checkpoint is not None
    assert [str(quality) for quality in checkpoint.meta.quality] == lines()[-2:]


def test_a_calibration_far_from_1_and_a_task_without_positives_are_warnings(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(batch_size=256)
    for positive, fault in (
        (True, "click, served by live 3: calibration 0.10 is far from 1"),
        (False, "no positive label in 2,304 predictions"),
    ):
        caplog.clear()
        log = make_log(world, job)
        for start in range(0, 2304, 256):
            examples = served(make_examples(*range(start, start + 256)), 0.1)
            append(log, replace(examples, labels={"click": np.full(256, float(positive), np.float32)}))
        train(make_job(batch_size=256, checkpoint_dir=f"{job.trainer.checkpoint_dir}-{positive}"), log, ManualClock(NOW_MS))
        assert any(fault in record.message and record.levelname == "WARNING" for record in caplog.records)


def served(examples: ExampleBatch, score: float) -> ExampleBatch:
    num = len(examples)
    return replace(
        examples,
        served=ServedScores({"click": np.full(num, score, np.float32)}, (ServedModel("live", "3.41"),), np.zeros(num, np.int32)),
    )


def test_expired_rows_are_evicted_at_multiples_of_the_interval_of_event_time(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(features={"ttl_s": 100}, evict_interval_s=1000.0)
    log, clock = make_log(world, job), ManualClock(NOW_MS + 2_000_000)
    training = OnlineTraining(job, log, clock, lambda: False)
    table = training.trainer.bags.tables["item"]

    def learn(item: int, at_s: int) -> int:
        append(log, make_examples(item, time_ms=NOW_MS + at_s * 1000))
        assert training.step()
        return int(table.stats().evicted)

    assert NOW_MS // 1000 % 1000 == 0
    assert learn(1, 1) == 0
    assert learn(2, 950) == 0, "item 1 has expired, the sweep is not due"
    assert learn(3, 1001) == 1
    assert learn(3, 1900) == 1


@pytest.mark.parametrize("passing_s", [[1001, 1060], [1060]])
def test_rows_expire_by_the_due_time_wherever_batches_begin(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], passing_s: list[int]
) -> None:
    """A restarted trainer kept rows whose eviction it had published: serving.md, row 26."""
    job = make_job(features={"ttl_s": 100}, evict_interval_s=1000.0)
    log, clock = make_log(world, job), ManualClock(NOW_MS + 2_000_000)
    training = OnlineTraining(job, log, clock, lambda: False)
    for item, at_s in enumerate([850, 930, *passing_s], start=1):
        append(log, make_examples(item, time_ms=NOW_MS + at_s * 1000))
        assert training.step()
    fids = np.sort(training.trainer.bags.tables["item"].export_rows()[0])
    assert fids.tolist() == list(range(2, 3 + len(passing_s)))


def test_a_restart_continues_in_the_middle_of_a_record(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    job = make_job(batch_size=3)
    log, clock = make_log(world, job), ManualClock(NOW_MS)
    append(log, make_examples(*range(1, 8)))
    first = OnlineTraining(job, log, clock, lambda: False)
    first.step()
    first.checkpoint()
    second = train(job, log, clock)
    assert second.trainer.num_examples == 7
    fids = np.sort(second.trainer.bags.tables["item"].export_rows()[0])
    assert fids.tolist() == list(range(1, 8))


def test_a_trainer_that_cannot_write_checkpoints_publishes_nothing(
    tmp_path: Path, world: World, make_job: Callable[..., JobConfig]
) -> None:
    (tmp_path / "file").write_text("no folder can be made below a file")
    job = make_job(checkpoint_dir=str(tmp_path / "file" / "checkpoints"))
    log = make_log(world, job)
    with pytest.raises(CheckpointError, match=r"file/checkpoints"):
        OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
    assert log.end_offset("updates") == 0  # replicas go on with the model that they have


def test_a_second_trainer_on_other_checkpoints_fences_the_first(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    """The lock of the checkpoint folder says nothing of another folder: streams.md, section 2."""
    job = make_job()
    log = make_log(world, job)
    append(log, make_examples(1, 2))
    first = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
    other = make_job(checkpoint_dir=f"{tmp_path}/other")
    second = OnlineTraining(other, log, ManualClock(NOW_MS), lambda: False, StartOptions(fresh=True))
    with pytest.raises(Fenced, match="another process has taken over"):
        first.run(stop_at_end=True)
    second.run(stop_at_end=True)
    generations = [decode_delta(record.value).generation for record in log.read("updates", 0, 0, 1000)]
    assert generations == sorted(generations) and set(generations) == {1, 2}
