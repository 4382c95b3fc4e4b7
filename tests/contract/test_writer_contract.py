"""The contract of Writer over each implementation of Log: one writer of a partition at a time, whole appends only. And ids of topics."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from monolith_py.errors import Fenced, TopicMissing
from monolith_py.io import Log, MemoryLog

Make = Callable[..., Log]
NUMBERS = itertools.count()

WRITER = """
import sys
from monolith_py.io import open_log

url, topic, size, padding = sys.argv[1:]
log = open_log(url)
writer = log.writer(topic, 0, "joiner")
number = 0
while True:
    writer.append([f"{number} {part}".encode() + bytes(int(padding)) for part in range(int(size))], time_ms=number)
    print(number, flush=True)
    number += 1
"""


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
def open_again(request: pytest.FixtureRequest, tmp_path: Path, make_log: Make) -> Callable[[], Log]:
    """Return a function that gives the same log to another process, as far as a test can."""
    if request.param == "memory":
        memory = MemoryLog()
        return lambda: memory
    url = f"sqlite:///{tmp_path}/log" if request.param == "sqlite" else request.getfixturevalue("kafka_url")
    return lambda: make_log(url)


@pytest.fixture
def log(open_again: Callable[[], Log]) -> Log:
    return open_again()


@pytest.fixture
def topic(log: Log) -> str:
    name = f"writer.{next(NUMBERS)}"
    log.create_topic(name, 2)
    return name


def values(log: Log, topic: str, partition: int = 0) -> list[bytes]:
    """Return every value, also after the offsets that a log uses for itself."""
    found: list[bytes] = []
    offset = log.start_offset(topic, partition)
    while offset < log.end_offset(topic, partition) and (records := log.read(topic, partition, offset, 100)):
        found += [record.value for record in records]
        offset = records[-1].offset + 1
    return found


def test_a_writer_appends_in_order_and_returns_an_offset_behind_its_values(log: Log, topic: str) -> None:
    writer = log.writer(topic, 0, "joiner")
    end = writer.append([b"a", b"b"], time_ms=[3, 2])
    writer.append([b"c"], time_ms=1)
    (record,) = log.read(topic, 0, end, 10, timeout_s=5.0)
    assert (record.value, record.time_ms) == (b"c", 1)
    assert [(one.value, one.time_ms) for one in log.read(topic, 0, 0, 2)] == [(b"a", 3), (b"b", 2)]
    assert log.append(topic, [b"d"], time_ms=1) > record.offset
    assert values(log, topic) == [b"a", b"b", b"c", b"d"]


def test_a_new_writer_fences_the_older_one_for_good(open_again: Callable[[], Log], topic: str) -> None:
    first = open_again().writer(topic, 0, "joiner")
    first.append([b"a"], time_ms=1)
    other = open_again()
    second = other.writer(topic, 0, "joiner")
    with pytest.raises(Fenced, match="another process has taken over"):
        first.append([b"lost"], time_ms=1)
    second.append([b"b"], time_ms=1)
    with pytest.raises(Fenced):
        first.append([b"lost"], time_ms=1)
    assert values(other, topic) == [b"a", b"b"]


def test_writers_of_other_partitions_topics_and_names_are_left_in_peace(open_again: Callable[[], Log], topic: str) -> None:
    log = open_again()
    log.create_topic(f"{topic}.other")
    writers = [log.writer(topic, 0, "a"), log.writer(topic, 0, "b"), log.writer(topic, 1, "a"), log.writer(f"{topic}.other", 0, "a")]
    for writer in writers:
        writer.append([b"x"], time_ms=1)
    assert [len(values(log, topic, partition)) for partition in (0, 1)] == [2, 1]


def test_a_settled_writer_goes_on(log: Log, topic: str) -> None:
    writer = log.writer(topic, 0, "joiner")
    writer.append([b"a"], time_ms=1)
    writer.settle()
    writer.append([b"b"], time_ms=1)
    writer.close()
    assert values(log, topic) == [b"a", b"b"]


def test_a_writer_of_an_unknown_topic_is_an_error(log: Log) -> None:
    with pytest.raises(TopicMissing):
        log.writer("nowhere", 0, "joiner")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
@pytest.mark.parametrize("padding", [0, 20_000])
def test_the_appends_of_a_killed_writer_are_whole(
    kind: str, padding: int, request: pytest.FixtureRequest, tmp_path: Path, make_log: Make
) -> None:
    url = f"sqlite:///{tmp_path}/log" if kind == "sqlite" else request.getfixturevalue("kafka_url")
    log, topic, size = make_log(url), f"writer.{next(NUMBERS)}", 5
    log.create_topic(topic)
    process = subprocess.Popen([sys.executable, "-c", WRITER, url, topic, str(size), str(padding)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        for _ in range(10):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines(keepends=True)
    acknowledged = 10 + sum(line.endswith("\n") for line in rest)
    log.writer(topic, 0, "joiner").append([b"next"], time_ms=1)
    found = values(log, topic)
    num_whole = (len(found) - 1) // size
    assert num_whole in (acknowledged, acknowledged + 1)
    assert found == [*(f"{number} {part}".encode() + bytes(padding) for number in range(num_whole) for part in range(size)), b"next"]


def test_a_topic_has_an_id_of_its_own_in_every_handle(open_again: Callable[[], Log], log: Log, topic: str) -> None:
    other = f"{topic}.other"
    log.create_topic(other, 2)
    assert log.describe(topic) == open_again().describe(topic)
    assert log.describe(topic).id != log.describe(other).id
    most = log.describe(topic).max_record_bytes
    assert most is None or most > 15 << 20
    with pytest.raises(TopicMissing):
        log.describe("nowhere")
