"""Dead letters go back to their topic once: across a kill at every point, and not for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.clock import ManualClock
from monolith_py.config import LogConfig
from monolith_py.data.events import Action, DeadLetter, LetterKind
from monolith_py.errors import AlreadyRunning
from monolith_py.io import Log
from monolith_py.io.codec import encode_action
from monolith_py.io.log.dead_letters import DeadLetters, read_dead_letters
from monolith_py.io.log.topics import Topics, create_topics, partition_of
from monolith_streaming.dead_letters import Reinjector, Selection, count_by_rule

Make = Callable[..., Log]
NOW_MS = 1_700_000_000_000
PARTITIONS = 4
CONFIG = LogConfig(url="sqlite:///unused", partitions=PARTITIONS, topic_prefix="again.")
TOPICS = Topics.of(CONFIG)


def action(number: int) -> bytes:
    return encode_action(Action(f"r{number}", number, "click", NOW_MS + number))


def letters_of(numbers: Sequence[int], **fields: Any) -> list[DeadLetter]:
    return [DeadLetter(TOPICS.actions, 0, 100 + number, action(number), "no impression, got 1", **fields) for number in numbers]


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
def log(request: pytest.FixtureRequest, make_log: Make) -> Log:
    """A log with empty topics; on Kafka offsets go on."""
    log = make_log() if request.param == "sqlite" else make_log(request.getfixturevalue("kafka_url"))
    create_topics(log, CONFIG)
    for topic in (*vars(TOPICS).values(),):
        for partition in range(log.num_partitions(topic)):
            log.trim(topic, partition, log.end_offset(topic, partition))
    return log


def held(log: Log, topic: str = TOPICS.actions) -> list[tuple[int, bytes]]:
    """Return (partition, value) of every record of a topic."""
    found = []
    for partition in range(log.num_partitions(topic)):
        offset = log.start_offset(topic, partition)
        while records := log.read(topic, partition, offset, 1_000):
            found += [(partition, record.value) for record in records]
            offset = records[-1].offset + 1
    return found


def put(log: Log, letters: Sequence[DeadLetter], clock: ManualClock) -> None:
    DeadLetters(log, TOPICS.dead_letters, clock).put_all(letters)


def test_letters_go_to_the_partition_of_their_request_with_their_event_time(log: Log) -> None:
    clock = ManualClock(NOW_MS)
    put(log, letters_of(range(20), kind=LetterKind.WRONG_PARTITION), clock)
    assert Reinjector(log, TOPICS, clock).run(Selection())["put back"] == 20
    assert sorted(held(log)) == sorted((partition_of(f"r{number}", PARTITIONS), action(number)) for number in range(20))
    partition = partition_of("r7", PARTITIONS)
    records = log.read(TOPICS.actions, partition, log.start_offset(TOPICS.actions, partition), 100)
    assert NOW_MS + 7 in [record.time_ms for record in records]


def test_a_second_run_puts_nothing_back(log: Log) -> None:
    clock = ManualClock(NOW_MS)
    put(log, letters_of(range(5)), clock)
    assert Reinjector(log, TOPICS, clock).run(Selection())["put back"] == 5
    assert Reinjector(log, TOPICS, clock).run(Selection())["put back"] == 0
    assert len(held(log)) == 5


def test_late_letters_stay_unless_their_kind_is_named(log: Log) -> None:
    clock = ManualClock(NOW_MS)
    put(log, [*letters_of(range(3), kind=LetterKind.LATE), *letters_of(range(3, 5))], clock)
    results = Reinjector(log, TOPICS, clock).run(Selection())
    (left,) = (number for reason, number in results.items() if reason.startswith("late"))
    assert (results["put back"], left, len(held(log))) == (2, 3, 2)
    results = Reinjector(log, TOPICS, clock).run(Selection(kind="late"))
    assert results == {"put back": 3}
    assert Reinjector(log, TOPICS, clock).run(Selection()) == {"put back": 0}


class Killed(BaseException):
    """The process has died."""


class DyingLog:
    """A log whose process dies before append number `fuse`, or in the middle of it (half of the values) or after it."""

    def __init__(self, log: Log, fuse: int, how: str) -> None:
        self._log, self._fuse, self._how = log, fuse, how

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: Any, partition: int = 0) -> int:
        self._fuse -= 1
        if self._fuse >= 0:
            return self._log.append(topic, values, time_ms=time_ms, partition=partition)
        if self._how == "after":
            self._log.append(topic, values, time_ms=time_ms, partition=partition)
        elif self._how == "middle" and len(values) > 1:
            half = len(values) // 2
            times = time_ms if isinstance(time_ms, int) else time_ms[:half]
            self._log.append(topic, values[:half], time_ms=times, partition=partition)
        raise Killed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@pytest.mark.parametrize("how", ["before", "middle", "after"])
@pytest.mark.parametrize("fuse", range(12))
def test_a_kill_at_any_point_puts_each_letter_back_once(make_log: Make, how: str, fuse: int) -> None:
    log, clock = make_log(), ManualClock(NOW_MS)
    create_topics(log, CONFIG)
    put(log, letters_of(range(16)), clock)
    log.append(TOPICS.actions, [action(99)], time_ms=1)  # of an app
    dying: Any = DyingLog(log, fuse, how)
    with pytest.raises(Killed):
        Reinjector(dying, TOPICS, clock).run(Selection())
    log.append(TOPICS.actions, [action(98)], time_ms=1, partition=1)
    clock.advance(61.0)
    Reinjector(log, TOPICS, clock).run(Selection())
    values = [value for _, value in held(log)]
    assert sorted(values) == sorted([*(action(number) for number in range(16)), action(98), action(99)])
    assert Reinjector(log, TOPICS, clock).run(Selection())["put back"] == 0


def test_a_letter_that_fails_again_is_put_back_no_more_often_than_allowed(log: Log) -> None:
    clock = ManualClock(NOW_MS)
    put(log, letters_of([3]), clock)
    partition = partition_of("r3", PARTITIONS)
    for attempt in range(1, 4):
        again = Reinjector(log, TOPICS, clock, max_attempts=3).run(Selection())
        assert again["put back"] == 1
        offset = log.end_offset(TOPICS.actions, partition) - 1
        while not log.read(TOPICS.actions, partition, offset, 1):  # Kafka's end may be behind control records
            offset -= 1
        put(log, [DeadLetter(TOPICS.actions, partition, offset, action(3), f"again {attempt}")], clock)
    results = Reinjector(log, TOPICS, clock, max_attempts=3).run(Selection())
    assert (results["put back"], results["failed again"]) == (0, 1)
    assert Reinjector(log, TOPICS, clock, max_attempts=4).run(Selection())["put back"] == 1


def test_a_record_that_fails_before_its_re_injection_is_done_counts_as_one_that_failed(make_log: Make) -> None:
    """A joiner may refuse the record at once: its letter then is before the end of the re-injection in the topic."""
    log, clock = make_log(), ManualClock(NOW_MS)
    create_topics(log, CONFIG)
    put(log, letters_of([3]), clock)
    partition = partition_of("r3", PARTITIONS)

    class QuickJoiner(DyingLog):
        def append(self, topic: str, values: Sequence[bytes], *, time_ms: Any, partition: int = 0) -> int:
            end = super().append(topic, values, time_ms=time_ms, partition=partition)
            if topic == TOPICS.actions:
                put(log, [DeadLetter(topic, partition, end - 1, values[0], "again")], clock)
            return end

    quick: Any = QuickJoiner(log, 1_000, "before")
    Reinjector(quick, TOPICS, clock).run(Selection())
    results = Reinjector(log, TOPICS, clock).run(Selection())
    assert (results["put back"], results["failed again"]) == (0, 1)
    assert len(log.read(TOPICS.actions, partition, 0, 10)) == 1


def test_a_run_beside_another_is_refused(make_log: Make) -> None:
    log, clock = make_log(), ManualClock(NOW_MS)
    create_topics(log, CONFIG)
    put(log, letters_of(range(4)), clock)
    dying: Any = DyingLog(log, 1, "before")
    with pytest.raises(Killed):
        Reinjector(dying, TOPICS, clock).run(Selection())
    clock.advance(59.0)
    with pytest.raises(AlreadyRunning, match="has begun 59 s ago"):
        Reinjector(log, TOPICS, clock).run(Selection())
    assert held(log) == []


def test_letters_that_cannot_go_back_are_counted_by_the_reason(make_log: Make) -> None:
    log, clock = make_log(), ManualClock(NOW_MS)
    create_topics(log, CONFIG)
    put(log, [DeadLetter("other.actions", 0, 1, b"x", "a"), DeadLetter(TOPICS.actions, 0, 1, bytes(1_000_000), "large")], clock)
    put(log, [DeadLetter(TOPICS.examples, 3, 7, b"no example", "broken")], clock)
    results = Reinjector(log, TOPICS, clock).run(Selection())
    assert results == {"put back": 1, "of a topic of another job": 1, "cut: the message is not whole": 1}
    assert held(log, TOPICS.examples) == [(3, b"no example")]


def test_letters_are_chosen_by_topic_kind_reason_and_time() -> None:
    letters = [
        DeadLetter("actions", 0, 1, b"", "action.kind must not be empty, got ''", 1_000),
        DeadLetter("impressions", 0, 2, b"", "too old", 2_000, kind=LetterKind.LATE),
        DeadLetter("actions", 0, 3, b"", "no impression", 3_000, kind=LetterKind.UNMATCHED),
    ]
    chosen = lambda **fields: [letter.offset for letter in letters if Selection(**fields).takes(letter)]  # noqa: E731
    assert chosen() == [1, 2, 3]
    assert chosen(topic="actions") == [1, 3]
    assert chosen(kind="late") == [2]
    assert chosen(reason="must not") == [1]
    assert chosen(since_ms=2_000, until_ms=3_000) == [2]


def test_reasons_are_counted_without_the_values_of_a_letter() -> None:
    times = [f"time_ms must be at most 300000 ms ahead of the wall clock {1_700_000_000_000 + n}, got {n}" for n in range(3)]
    letters = [DeadLetter("actions", 0, 1, b"", reason) for reason in [*times, "too old"]]
    rule = "time_ms must be at most N ms ahead of the wall clock N"
    assert count_by_rule(letters) == [("actions", "broken", rule, 3), ("actions", "broken", "too old", 1)]


def test_the_command_counts_filters_and_retries(make_log: Make, tmp_path: Path) -> None:
    log = make_log()
    create_topics(log, CONFIG)
    put(log, letters_of(range(3)), ManualClock(NOW_MS))
    put(log, letters_of([7], kind=LetterKind.LATE), ManualClock(NOW_MS + 60_000))
    job = tmp_path / "job.toml"
    job.write_text(
        f"""
        name = "shop"
        log = {{ url = "sqlite:///{tmp_path}/log", partitions = {PARTITIONS}, topic_prefix = "again." }}
        kv = {{ url = "memory:" }}
        features = [{{ name = "user", source = "user_id" }}]
        tasks = [{{ name = "is_click", action = "click" }}]
        trainer = {{ checkpoint_dir = "{tmp_path}/checkpoints" }}
        """
    )

    def run(*arguments: str) -> str:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["dead-letters", "--config", str(job), *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert [line.split()[1] for line in run("--count").splitlines() if "again.actions" in line] == ["3", "1"]
    assert len(run("--kind", "late", "--json").splitlines()) == 1
    assert len(run("--since", str(NOW_MS + 60_000), "--json").splitlines()) == 1
    assert len(run("--until", "2023-11-14T22:13:21", "--json").splitlines()) == 3
    assert run("--retry", "--kind", "late") == "1 put back\n"
    assert run("--retry") == "3 put back\n"
    assert len(held(log)) == 4
    assert list(read_dead_letters(log, TOPICS.dead_letters, 1)) == [], "the newest record is a re-injection"
