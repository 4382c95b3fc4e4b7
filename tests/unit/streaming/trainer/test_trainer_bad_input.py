"""Examples that do not fit, a full disk, a second trainer: the trainer goes on, or says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import AlreadyRunning, CheckpointError, ClockStepped
from monolith_py.io.codec import decode_dead_letter, decode_examples, encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.io.role_lock import role_lock
from monolith_py.training import Checkpoint
from monolith_streaming.trainer.loop import OnlineTraining

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


def test_an_example_ahead_of_the_wall_clock_is_put_aside_and_expires_no_row(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    """One example 8 h ahead left 1 row of 19,115 with a ttl of 6 h: faults.md, f06."""
    job = make_job(features={"ttl_s": 6 * 3600}, evict_interval_s=60.0)
    log = make_log(world, job)
    examples = make_examples(*range(1, 8), time_ms=NOW_MS)
    examples.times_ms[3] += 8 * 3_600_000
    append(log, examples)
    append(log, make_examples(8, time_ms=NOW_MS))
    training = train(job, log, ManualClock(NOW_MS))
    assert training.trainer.num_examples == 7
    assert training.trainer.watermark_ms == NOW_MS
    assert sorted(training.trainer.bags.tables["item"].export_rows()[0].tolist()) == [1, 2, 3, 5, 6, 7, 8]
    (letter,) = (decode_dead_letter(record.value) for record in log.read("dead_letters", 0, 0, 10))
    assert decode_examples(letter.value).item_ids.tolist() == [4]
    assert (letter.offset, letter.reason[:70]) == (0, "examples.time_ms must be at most 300000 ms ahead of the wall clock 170")


def test_records_that_do_not_fit_the_job_are_put_aside_whole_and_the_others_learnt(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    """Widths 2, 1, 2 and a missing task stopped the trainer or put sound examples aside: faults.md, f12."""
    job = make_job()
    log = make_log(world, job)
    append(log, make_examples(1, 2))
    append(log, make_examples(3, 4, dim=1))
    append(log, make_examples(5, 6, tasks=("other",)))
    append(log, make_examples(7, 8, tasks=("click", "other")))
    training = train(job, log, ManualClock(NOW_MS))
    assert training.trainer.num_examples == 4
    letters = [decode_dead_letter(record.value) for record in log.read("dead_letters", 0, 0, 10)]
    assert [(letter.offset, letter.reason) for letter in letters] == [
        (1, "examples.d_age must have 2 values a row, got 1"),
        (2, "examples.labels must have every task, got none for ['click']"),
    ]


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_trainer(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    """A full disk ended the trainer, at every start: faults.md, f22."""
    job = make_job(checkpoint_interval_s=10.0)
    log, clock = make_log(world, job), ManualClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)
    folder = Path(job.trainer.checkpoint_dir)
    away = folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    append(log, make_examples(1))
    clock.advance(11.0)
    assert training.step()
    append(log, make_examples(2))
    assert training.step()
    assert training.trainer.num_examples == 2
    folder.unlink()
    away.rename(folder)
    clock.advance(10.0)
    while steps_saved(job) != [0, 2]:
        training.step()


def test_a_second_trainer_of_a_folder_is_refused(tmp_path: Path) -> None:
    """Two trainers of one folder published over each other, and both died at the next checkpoint: newcomer.md, P7."""
    path = tmp_path / "checkpoints" / ".trainer.lock"
    with (
        role_lock(path, "trainer", CheckpointError),
        pytest.raises(AlreadyRunning, match="one trainer at a time must run"),
        role_lock(path, "trainer", CheckpointError),
    ):
        pass
    with role_lock(path, "trainer", CheckpointError):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"), role_lock(tmp_path / "file" / "lock", "trainer", CheckpointError):
        pass


def test_a_lock_on_a_full_disk_is_held_without_the_name_of_its_holder() -> None:
    with role_lock(Path("/dev/full"), "trainer", CheckpointError):
        pass


def test_a_wall_clock_that_steps_back_stops_the_trainer_and_puts_nothing_aside(
    world: World, make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch]
) -> None:
    class SteppingClock(ManualClock):
        shift_ms = 0

        def now_ms(self) -> int:
            return super().now_ms() + self.shift_ms

    job = make_job()
    log, clock = make_log(world, job), SteppingClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)
    log.append("examples", [encode_examples(make_examples(1, time_ms=NOW_MS - 1000))], time_ms=NOW_MS)
    assert training.step()
    training.checkpoint()
    clock.shift_ms = -8 * 3_600_000
    log.append("examples", [encode_examples(make_examples(2, time_ms=NOW_MS))], time_ms=NOW_MS)
    with pytest.raises(ClockStepped, match="must not go back"):
        training.step()
    with pytest.raises(ClockStepped, match="must have reached the event time"):
        OnlineTraining(job, log, clock, lambda: False)
    clock.shift_ms = 0
    training = OnlineTraining(job, log, clock, lambda: False)
    assert training.step()
    assert training.trainer.num_examples == 2
    assert log.end_offset("dead_letters") == 0
