"""A store that was emptied, restored or belongs to another job is recognised at the start, and state is carried over by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.errors import RecordRefused, StateMismatch
from monolith_py.io import Log, MemoryKv, MemoryLog
from monolith_py.io.codec import encode_examples
from monolith_streaming.joiner.loop import JoinerLoop

World = Any


def fill(world: World, job: JobConfig, log: Log, first: int = 0, num: int = 30) -> None:
    for number in range(first, first + num):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "end", number))


def step_to_end(loop: JoinerLoop) -> None:
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()


@pytest.fixture
def job(world: World) -> JobConfig:
    found: JobConfig = world.job(terminal_actions=["end"])
    return found


def copy_of(kv: MemoryKv) -> MemoryKv:
    copy = MemoryKv()
    copy.write(dict(kv.scan("")))
    return copy


def forced(job: JobConfig, log: Log, kv: MemoryKv) -> JoinerLoop:
    loop = JoinerLoop(job, log, kv, ManualClock(1_800_000_000_000))
    loop.start(force=True)
    return loop


def keys(world: World, job: JobConfig, log: Log) -> list[tuple[str, int, str]]:
    return sorted((request_id, item, kind) for request_id, item, kind, _ in world.labels(job, log))


def test_an_empty_store_beside_a_log_with_examples_is_built_again(world: World, job: JobConfig) -> None:
    """An emptied store made 1,676 examples of 1,676 twice: streams.md, A3."""
    log = world.log(job)
    fill(world, job, log)
    world.append(job, log, world.impression("open", 30), world.action("open", "click", 31))
    step_to_end(world.joiner(job, log))
    assert len(world.labels(job, log)) == 30
    loop = world.joiner(job, log, MemoryKv())
    step_to_end(loop)
    assert len(world.labels(job, log)) == 30
    world.append(job, log, world.action("r3", "like", 32))
    step_to_end(loop)
    loop.close_all()
    assert len(set(keys(world, job, log))) == len(keys(world, job, log)) == 32
    assert ("open", 1, "LABELLED", (1, 0)) in world.labels(job, log)
    assert ("r3", 1, "RETRACTION", (0, 1)) in world.labels(job, log)


def test_an_empty_store_beside_examples_without_steps_is_refused_unless_forced(world: World, job: JobConfig) -> None:
    log, other = world.log(job), world.log(job)
    fill(world, job, log)
    fill(world, job, other)
    step_to_end(world.joiner(job, other))
    for batch in world.batches(job, other):
        log.append("examples", [encode_examples(batch)], time_ms=1)
    with pytest.raises(StateMismatch, match=r"'examples'\[0\] must have no examples of a joiner without steps"):
        world.joiner(job, log, MemoryKv())
    step_to_end(forced(job, log, MemoryKv()))
    assert max(world.examples(job, log).values()) == 2


def test_a_log_with_examples_of_a_replay_only_is_not_refused(world: World, job: JobConfig) -> None:
    """deploy/README.md, Replay: history is replayed into a job's topic before its joiner starts."""
    log, other = world.log(job), world.log(job)
    fill(world, job, other)
    step_to_end(world.joiner(job, other))
    for batch in world.batches(job, other):
        log.append("examples", [encode_examples(batch, {"replay": "1-2"})], time_ms=1)
    fill(world, job, log, first=100, num=3)
    step_to_end(world.joiner(job, log))
    assert len(world.labels(job, log)) == 33


def test_a_store_that_is_older_than_the_log_is_brought_up_to_it(world: World, job: JobConfig) -> None:
    """A backup of the store, six steps old, made 401 of 1,959 examples twice: streams.md, A2."""
    log, kv = world.log(job), MemoryKv()
    loop = world.joiner(job, log, kv)
    fill(world, job, log)
    step_to_end(loop)
    backup = copy_of(kv)
    for first in range(30, 210, 30):
        fill(world, job, log, first=first)
        step_to_end(loop)
    step_to_end(world.joiner(job, log, backup))
    assert keys(world, job, log) == sorted((f"r{number}", 1, "LABELLED") for number in range(210))
    fill(world, job, log, first=300)
    step_to_end(world.joiner(job, log, backup))
    assert len(keys(world, job, log)) == 240


def test_an_old_store_whose_steps_were_trimmed_is_refused_unless_forced(world: World, job: JobConfig) -> None:
    log, kv = world.log(job), MemoryKv()
    loop = world.joiner(job, log, kv)
    fill(world, job, log)
    step_to_end(loop)
    backup = copy_of(kv)
    for first in (30, 60):
        fill(world, job, log, first=first)
        step_to_end(loop)
    for before, got in ((log.end_offset("examples") - 1, "step 3"), (log.end_offset("examples"), "they were trimmed")):
        log.trim("examples", 0, before)
        with pytest.raises(StateMismatch, match=got):
            world.joiner(job, log, copy_of(backup))
    step_to_end(forced(job, log, backup))
    assert {f"r{number}" for number in range(30, 90)} == {row[0] for row in world.labels(job, log)}


def test_an_emptied_store_is_refused_where_the_examples_that_it_needs_were_trimmed(world: World, job: JobConfig) -> None:
    log = world.log(job)
    loop = world.joiner(job, log)
    for first in (0, 30):
        fill(world, job, log, first=first)
        step_to_end(loop)
    log.trim("examples", 0, 1)
    with pytest.raises(StateMismatch, match=r"'examples'\[0\] must have its records from 0 on, while the store has no position, got 1"):
        world.joiner(job, log, MemoryKv())


def test_steps_of_another_store_are_refused(world: World, job: JobConfig) -> None:
    log, kv = world.log(job), MemoryKv()
    loop = world.joiner(job, log, kv)
    fill(world, job, log)
    step_to_end(loop)
    backup = copy_of(kv)
    fill(world, job, log, first=30)
    step_to_end(loop)
    log.trim("examples", 0, 2)
    step_to_end(forced(job, log, backup))
    with pytest.raises(StateMismatch, match="must have what follows step 2 part 0 of series"):
        world.joiner(job, log, kv)


def test_a_store_without_a_step_beside_those_of_another_store_is_brought_up_to_them(
    world: World, job: JobConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """It was refused, and --force made examples twice, although an empty store was not."""
    log, fresh, other = world.log(job), MemoryKv(), MemoryKv()
    fill(world, job, log)
    world.joiner(job, log, fresh)
    later = world.joiner(job, log, other, ManualClock(world.now_ms + 11 * 86_400_000))
    step_to_end(later)
    fill(world, job, log, first=30)
    step_to_end(later)
    assert log.end_offset("examples") > 1
    fill(world, job, log, first=60)
    step_to_end(world.joiner(job, log, fresh, ManualClock(world.now_ms + 12 * 86_400_000)))
    assert "the store has no step yet, its state is built from the log" in caplog.text
    ids = [row[0] for row in world.labels(job, log)]
    assert sorted(ids) == sorted(f"r{number}" for number in range(90)), "each once"


@pytest.mark.parametrize("topic", ["impressions", "actions", "examples"])
def test_topics_that_were_made_again_are_refused_by_name(world: World, job: JobConfig, topic: str) -> None:
    log, kv = world.log(job), MemoryKv()
    fill(world, job, log)
    step_to_end(world.joiner(job, log, kv))
    log.ids[topic] = "again"
    rule = f"'{topic}' must be the topic with the id {topic}, whose offsets the state has, got again: made again"
    with pytest.raises(StateMismatch, match=rule):
        world.joiner(job, log, kv)
    if topic != "examples":
        with pytest.raises(StateMismatch, match=rule):
            world.joiner(job, log, MemoryKv())  # the log says whose offsets its steps have
    step_to_end(forced(job, log, kv))
    world.joiner(job, log, kv)


def test_a_position_beyond_the_end_of_the_log_is_refused_at_once(world: World, job: JobConfig) -> None:
    log, kv = world.log(job), MemoryKv()
    fill(world, job, log)
    step_to_end(world.joiner(job, log, kv))
    again = world.log(job)
    with pytest.raises(StateMismatch, match=r"'impressions'\[0\] must reach offset 30, up to which the store says it was processed, got 0"):
        world.joiner(job, again, kv)
    loop = forced(job, again, kv)
    fill(world, job, again, first=50, num=4)
    step_to_end(loop)
    assert [row[0] for row in world.labels(job, again)] == [f"r{number}" for number in range(50, 54)]


def test_another_topic_prefix_starts_at_the_beginning_of_its_own_topics(world: World, job: JobConfig) -> None:
    """deploy/README.md advises another prefix for changed features; the state of the former topics must not go there."""
    log, kv = world.log(job), MemoryKv()
    fill(world, job, log)
    loop = world.joiner(job, log, kv)
    world.append(job, log, world.impression("old", 30))
    step_to_end(loop)
    other = job.model_copy(update={"log": job.log.model_copy(update={"topic_prefix": "new."})})
    world.create_topics(log, other)
    fill(world, other, log, first=100, num=5)
    loop = world.joiner(other, log, kv)
    step_to_end(loop)
    loop.close_all()
    assert [row[0] for row in world.labels(other, log)] == [f"r{number}" for number in range(100, 105)]


def test_labels_of_waiting_requests_follow_their_tasks(world: World, job: JobConfig) -> None:
    """Reordered tasks made 50 likes of 50 clicks: streams.md, A7."""
    log, kv = world.log(job), MemoryKv()
    loop = world.joiner(job, log, kv)
    world.append(job, log, world.impression("r"), world.action("r", "click", 1))
    step_to_end(loop)
    click, like = job.tasks
    added = like.model_copy(update={"name": "is_share", "action": "share"})
    other = job.model_copy(update={"tasks": (like, added, click)})
    loop = world.joiner(other, log, kv)
    world.append(other, log, world.action("r", "share", 2))
    step_to_end(loop)
    loop = world.joiner(other, log, kv)
    loop.close_all()
    (batch,) = world.batches(other, log)
    assert {task: values.tolist() for task, values in batch.labels.items()} == {"is_like": [0.0], "is_share": [1.0], "is_click": [1.0]}


def test_the_last_step_is_not_written_again_after_a_trim(world: World, job: JobConfig, make_log: Callable[..., Log]) -> None:
    """The outbox in the store was delivered again: streams.md, A4 and K17."""
    log, kv = make_log(), MemoryKv()
    world.create_topics(log, job)
    fill(world, job, log)
    step_to_end(world.joiner(job, log, kv))
    end = log.end_offset("examples")
    log.trim("examples", 0, end)
    world.joiner(job, log, kv)
    assert log.end_offset("examples") == end


class StrictLog(MemoryLog):
    """A log in memory with the records of `log`, whose writers refuse values beyond `most` bytes."""

    def __init__(self, log: MemoryLog, most: int) -> None:
        super().__init__()
        self.records, self.epochs, self._most = log.records, log.epochs, most

    def writer(self, topic: str, partition: int, name: str) -> Any:
        return StrictWriter(super().writer(topic, partition, name), self._most)


class StrictWriter:
    def __init__(self, writer: Any, most: int) -> None:
        self._writer, self._most = writer, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def append(self, values: Any, *, time_ms: int) -> int:
        if any(len(value) > self._most for value in values):
            raise RecordRefused("a record must be smaller")
        end: int = self._writer.append(values, time_ms=time_ms)
        return end


def test_an_example_that_the_log_refuses_is_put_aside_and_the_others_are_written(world: World) -> None:
    job = world.job(terminal_actions=["end"])
    inner = world.log(job)
    fill(world, job, inner, num=3)
    size = max(map(len, (record.value for record in inner.read("impressions", 0, 0, 10))))
    log = StrictLog(inner, 20_000)
    tags = world.impression("large", 1, (2,)).candidates.sparse["tags"]
    many = type(tags)(tags.fids.repeat(1_500), tags.lengths * 1_500)
    candidates = world.impression("large", 1, (2,)).candidates
    candidates.sparse["tags"] = many
    world.append(job, inner, world.impression("large", 1, (2,), candidates=candidates), world.action("large", "end", 2, item=2))
    fill(world, job, inner, first=10, num=3)
    assert size < 20_000
    world.join(job, log)
    assert len(world.labels(job, inner)) == 6
    ((topic, offset, reason),) = world.dead_letters(job, inner)
    assert (topic, offset, reason) == ("examples", -1, "a record must be smaller")
