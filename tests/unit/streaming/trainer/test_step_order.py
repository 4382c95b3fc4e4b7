"""The trainer learns each step of the joiner once: a repeated one is passed over, a missing one stops it, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import StepsMissing
from monolith_py.io.codec import decode_dead_letter, encode_examples, step_from_metadata, step_to_metadata
from monolith_py.io.log.topics import create_topics
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import RESUME, StartOptions

World = Any
Examples = Callable[..., ExampleBatch]
NOW_MS = 1_700_000_000_000


@pytest.fixture
def job(make_job: Callable[..., JobConfig]) -> JobConfig:
    return make_job()


@pytest.fixture
def log(world: World, job: JobConfig) -> Any:
    log = world.MemoryLog()
    create_topics(log, job.log)
    return log


def step(number: int, part: int = 0, *, is_last: bool = True, series: int = 5, epoch: int = 1) -> JoinerStep:
    return JoinerStep(series, number, part, is_last, epoch)


def append(log: Any, examples: ExampleBatch, of: JoinerStep | None) -> None:
    log.append("examples", [encode_examples(examples, step_to_metadata(of) if of else None)], time_ms=1)


def learnt(job: JobConfig, log: Any, options: StartOptions = RESUME) -> int:
    """Train to the end of the log and return the number of examples that the model has learnt."""
    training = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False, options)
    training.run(stop_at_end=True)
    return training.trainer.num_examples


def total(name: str) -> float:
    return REGISTRY.get_sample_value(f"{name}_total") or 0.0


def test_a_step_in_metadata_is_read_back() -> None:
    assert step_from_metadata(step_to_metadata(step(7, 2, is_last=False))) == step(7, 2, is_last=False)
    assert step_from_metadata({"replay": "1-2"}) is None


def test_steps_and_records_without_one_are_learnt(job: JobConfig, log: Any, make_examples: Examples) -> None:
    append(log, make_examples(1, 2), None)
    append(log, make_examples(3), step(41, 0, is_last=False))
    append(log, make_examples(4), step(41, 1))
    append(log, make_examples(5), None)
    append(log, make_examples(6), step(42, epoch=2))
    append(log, make_examples(7), step(1, series=9))  # join --force
    assert learnt(job, log) == 7


def test_a_repeated_step_is_passed_over_and_counted(job: JobConfig, log: Any, make_examples: Examples) -> None:
    """Every doubled example was learnt twice: streams.md, section 1a."""
    before = total("monolith_example_records_repeated")
    for number in (1, 2, 1, 2, 3):
        append(log, make_examples(number), step(number))
    assert learnt(job, log) == 3
    append(log, make_examples(3), step(3))
    append(log, make_examples(4), step(4))
    assert learnt(job, log) == 4, "the checkpoint remembers the last step"
    assert total("monolith_example_records_repeated") == before + 3


def test_a_missing_step_stops_the_trainer_unless_it_is_accepted(job: JobConfig, log: Any, make_examples: Examples) -> None:
    append(log, make_examples(1), step(1))
    assert learnt(job, log) == 1
    append(log, make_examples(3), step(3))
    rule = r"'examples'\[0\] offset 1 must have what follows step 1 part 0 of series 5 .*, got step 3 part 0"
    for _ in range(2):
        with pytest.raises(StepsMissing, match=rule):
            learnt(job, log)
    before = total("monolith_example_holes")
    assert learnt(job, log, StartOptions(accept_hole=True)) == 2
    assert total("monolith_example_holes") == before + 1
    append(log, make_examples(4), step(4))
    assert learnt(job, log) == 3


@pytest.mark.parametrize("after", [step(3, 2), step(4)])
def test_a_missing_part_stops_the_trainer(job: JobConfig, log: Any, make_examples: Examples, after: JoinerStep) -> None:
    append(log, make_examples(1), step(3, 0, is_last=False))
    append(log, make_examples(2), after)
    with pytest.raises(StepsMissing):
        learnt(job, log)


def test_a_restart_within_a_record_does_not_take_its_step_for_a_repetition(
    make_job: Callable[..., JobConfig], log: Any, make_examples: Examples
) -> None:
    job = make_job(batch_size=2)
    append(log, make_examples(1), step(1))
    append(log, make_examples(2, 3, 4, 5), step(2))
    training = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
    assert training.step()
    training.checkpoint()
    assert learnt(job, log) == 5


def test_records_that_were_trimmed_or_put_aside_make_no_hole(job: JobConfig, log: Any, make_examples: Examples) -> None:
    """Both are reported already: a second report would stop the trainer for what nobody can cure."""
    append(log, make_examples(1), step(1))
    assert learnt(job, log) == 1
    for number in (2, 3, 4):
        append(log, make_examples(number), step(number))
    log.trim("examples", 0, 2)
    assert learnt(job, log) == 3
    log.append("examples", [b"?"], time_ms=1)
    append(log, make_examples(6, tasks=("other",)), step(6))
    append(log, make_examples(7), step(7))
    assert learnt(job, log) == 4
    assert [decode_dead_letter(record.value).offset for record in log.read("dead_letters", 0, 0, 9)] == [4, 5]
