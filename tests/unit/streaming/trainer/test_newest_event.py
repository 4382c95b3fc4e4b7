"""Event time of the newest event behind a batch: from the joiner's progress in its records, to the marks of the updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.sync import decode_delta
from monolith_streaming.joiner.position import Progress, newest_event_ms, progress_to_metadata
from monolith_streaming.joiner.watermark import InputTopic, Watermark, WatermarkState
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.source import ExampleSource
from monolith_streaming.trainer.step_order import SourcePlace

Examples = Callable[..., ExampleBatch]


def progress(*newest_ms: int | None) -> dict[str, str]:
    """Return the metadata of a joiner that has read impressions and actions up to these event times."""
    return progress_to_metadata(Progress([3, 4], WatermarkState(newest_ms=list(newest_ms))))


def test_the_newest_event_of_a_record_is_that_of_either_topic():
    assert newest_event_ms(progress(5_000, 7_000)) == 7_000
    assert newest_event_ms(progress(5_000, None)) == 5_000


def test_the_newest_event_needs_no_later_ones_that_agree():
    """An event of a quiet stream is known at once, and one of a clock that is ahead is no newer than the wall clock."""
    watermark = Watermark(1000, 5.0, 5, WatermarkState(), now_s=0.0)
    for time_ms in range(10_000, 20_000, 1_000):
        watermark.observe(InputTopic.ACTIONS, time_ms, time_ms + 5)
    assert watermark.clock_ms(InputTopic.ACTIONS) == 15_000
    assert newest_event_ms(progress_to_metadata(Progress([3, 4], watermark.state))) == 19_000
    watermark.observe(InputTopic.ACTIONS, 90_000, 20_000)
    assert newest_event_ms(progress_to_metadata(Progress([3, 4], watermark.state))) == 20_000


@pytest.mark.parametrize("metadata", [{}, progress(None, None), {"progress": "nonsense"}])
def test_records_without_progress_know_no_event(metadata):
    assert newest_event_ms(metadata) == 0


def test_a_batch_has_the_newest_event_of_its_records(timed_log: Callable[[ManualClock], Any], make_examples: Examples) -> None:
    clock = ManualClock()
    log = timed_log(clock)
    log.create_topic("examples")
    log.create_topic("dead")
    for item_id, metadata in enumerate([progress(1_000, 4_000), progress(2_000, 9_000), {}, progress(3_000, 5_000)], start=1):
        log.append("examples", [encode_examples(make_examples(item_id, 10 + item_id), metadata)], time_ms=item_id)
    source = ExampleSource(log, "examples", SourcePlace({}), DeadLetters(log, "dead", clock), clock)
    found = []
    while source.next_batch(2, 0.0, lambda: False) is not None:
        found.append(source.newest_event_ms)
    assert found == [4_000, 9_000, 0, 5_000]
    assert source.newest_event_ms == 0, "of no batch"


def test_the_marks_of_the_updates_have_the_events_of_their_steps(
    make_job: Callable[..., JobConfig], timed_log: Callable[[ManualClock], Any], make_examples: Examples
) -> None:
    clock, job = ManualClock(1_000_000), make_job()
    log, topics = timed_log(clock), Topics.of(job.log)
    create_topics(log, job.log)
    log.append(topics.examples, [encode_examples(make_examples(1, 2), progress(900_000, 950_000))], time_ms=1)
    OnlineTraining(job, log, clock, lambda: False).run(stop_at_end=True)
    marks = [mark for record in log.read(topics.updates, 0, 0, 100) for mark in decode_delta(record.value).steps]
    assert [(mark.num_rows, mark.event_ms) for mark in marks] == [(2, 950_000)]
