"""The contract of Log, run over each implementation."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith_py.errors import LogError, OffsetTrimmed, TopicMissing
from monolith_py.io import Log

Make = Callable[..., Log]
NUMBERS = itertools.count()
HANG_S = 240.0  # against a hang alone

APPENDER = """
import sys
from monolith_py.io import open_log

url, topic, name, count = sys.argv[1:]
log = open_log(url)
for number in range(int(count)):
    end = log.append(topic, [f"{name} {number}".encode()], time_ms=number)
    print(end, flush=True)
log.close()
"""


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.needs_kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log" if request.param == "sqlite" else request.getfixturevalue("kafka_url")


@pytest.fixture
def log(url: str, make_log: Make) -> Log:
    return make_log(url)


@pytest.fixture
def topic(log: Log) -> str:
    """Return a topic of one partition that this test has for itself."""
    name = f"contract.{next(NUMBERS)}"
    log.create_topic(name)
    return name


def values(log: Log, topic: str, partition: int = 0, offset: int = 0) -> list[bytes]:
    """Return every value from `offset` on, read in pieces."""
    found: list[bytes] = []
    while records := log.read(topic, partition, offset, max_records=100):
        assert [record.offset for record in records] == list(range(offset, offset + len(records)))
        found += [record.value for record in records]
        offset = records[-1].offset + 1
    return found


def test_records_are_read_in_order_with_their_offset_and_time(log: Log, topic: str) -> None:
    assert log.append(topic, [b"a", b"b"], time_ms=1_000) == 2
    assert log.append(topic, [b"c"], time_ms=500) == 3
    records = log.read(topic, 0, 0, max_records=10)
    assert [(r.topic, r.partition, r.offset, r.time_ms, r.value) for r in records] == [
        (topic, 0, 0, 1_000, b"a"),
        (topic, 0, 1, 1_000, b"b"),
        (topic, 0, 2, 500, b"c"),
    ]


def test_one_append_may_give_each_value_its_own_time(log: Log, topic: str) -> None:
    times_ms = [30, 10, 50, 40]
    assert log.append(topic, [b"%d" % time_ms for time_ms in times_ms], time_ms=times_ms) == 4
    assert [record.time_ms for record in log.read(topic, 0, 0, max_records=10)] == times_ms
    assert [log.offset_at(topic, 0, time_ms) for time_ms in (5, 30, 31, 50, 51)] == [0, 0, 2, 2, 4]
    assert log.append(topic, [], time_ms=[]) == 4
    with pytest.raises(ValueError, match="time_ms must be one for each of 2 values, got 1"):
        log.append(topic, [b"a", b"b"], time_ms=[1])
    with pytest.raises(ValueError, match="time_ms must be >= 0, got -1"):
        log.append(topic, [b"a", b"b"], time_ms=[1, -1])


def test_an_append_of_nothing_returns_the_end(log: Log, topic: str) -> None:
    assert log.append(topic, [], time_ms=1) == 0
    log.append(topic, [b"a"], time_ms=1)
    assert log.append(topic, [], time_ms=1) == 1
    assert values(log, topic) == [b"a"]


def test_values_may_be_empty_binary_and_large(log: Log, topic: str) -> None:
    sent = [b"", bytes(range(256)), np.random.default_rng(0).bytes(4_000_000), b"\x00"]
    log.append(topic, sent, time_ms=1)
    assert values(log, topic) == sent


def test_a_read_begins_anywhere_and_takes_no_more_than_asked_for(log: Log, topic: str) -> None:
    log.append(topic, [b"%d" % number for number in range(50)], time_ms=1)
    for offset, count in ((0, 7), (40, 7), (48, 7), (3, 1), (3, 2), (0, 1)):
        expected = [b"%d" % number for number in range(offset, min(offset + count, 50))]
        assert [record.value for record in log.read(topic, 0, offset, max_records=count)] == expected


def test_partitions_are_streams_of_their_own(log: Log) -> None:
    topic = f"contract.{next(NUMBERS)}"
    log.create_topic(topic, 3)
    assert log.num_partitions(topic) == 3
    for partition in (0, 2, 2):
        log.append(topic, [b"%d" % partition], time_ms=1, partition=partition)
    assert [values(log, topic, partition) for partition in range(3)] == [[b"0"], [], [b"2", b"2"]]
    assert [log.end_offset(topic, partition) for partition in range(3)] == [1, 0, 2]


def test_creating_a_topic_again_changes_nothing(log: Log, topic: str) -> None:
    log.append(topic, [b"a"], time_ms=1)
    log.create_topic(topic, 5)
    assert log.num_partitions(topic) == 1
    assert values(log, topic) == [b"a"]


def test_an_unknown_topic_is_missing_for_every_call(log: Log) -> None:
    for call in (
        lambda: log.num_partitions("nowhere"),
        lambda: log.append("nowhere", [b"a"], time_ms=1),
        lambda: log.read("nowhere", 0, 0, 1, timeout_s=1.0),
        lambda: log.start_offset("nowhere"),
        lambda: log.end_offset("nowhere"),
        lambda: log.offset_at("nowhere", 0, 1),
        lambda: log.trim("nowhere", 0, 1),
    ):
        with pytest.raises(TopicMissing, match="topic 'nowhere' does not exist") as caught:
            call()
        assert caught.value.topic == "nowhere"


def test_a_topic_is_found_once_another_process_creates_it(url: str, log: Log, make_log: Make) -> None:
    topic = f"contract.{next(NUMBERS)}"
    with pytest.raises(TopicMissing):
        log.num_partitions(topic)
    make_log(url).create_topic(topic, 2)
    assert log.num_partitions(topic) == 2


def test_a_partition_out_of_range_is_an_error(log: Log, topic: str) -> None:
    for partition in (1, -1):
        with pytest.raises(LogError, match=r"partition must be in \[0, 1\)"):
            log.append(topic, [b"a"], time_ms=1, partition=partition)
        with pytest.raises(LogError, match=r"partition must be in \[0, 1\)"):
            log.read(topic, partition, 0, 1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "\u00e4", "a" * 250])
def test_a_bad_topic_name_is_refused(log: Log, name: str) -> None:
    with pytest.raises(ValueError, match="topic must be"):
        log.create_topic(name)


def test_wrong_arguments_are_refused(log: Log, topic: str) -> None:
    with pytest.raises(ValueError, match="num_partitions must be >= 1, got 0"):
        log.create_topic(f"{topic}.none", 0)
    with pytest.raises(ValueError, match="time_ms must be >= 0, got -1"):
        log.append(topic, [b"a"], time_ms=-1)
    with pytest.raises(ValueError, match="offset must be >= 0"):
        log.read(topic, 0, -1, 1)
    with pytest.raises(ValueError, match="max_records >= 1"):
        log.read(topic, 0, 0, 0)


def test_a_read_at_the_end_returns_nothing(log: Log, topic: str) -> None:
    assert log.read(topic, 0, 0, 1) == []
    log.append(topic, [b"a"], time_ms=1)
    assert log.read(topic, 0, 1, 1, timeout_s=0.05) == []
    assert log.read(topic, 0, 1, 1) == []


def test_a_waiting_read_returns_records_that_another_handle_appends(url: str, log: Log, topic: str, make_log: Make) -> None:
    found: list[bytes] = []
    read = lambda: found.extend(r.value for r in log.read(topic, 0, 0, 10, timeout_s=HANG_S))  # noqa: E731
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    make_log(url).append(topic, [b"a"], time_ms=1)
    reader.join()
    assert found == [b"a"]


def test_an_offset_beyond_the_end_is_an_error(log: Log, topic: str) -> None:
    log.append(topic, [b"a"], time_ms=1)
    with pytest.raises(LogError, match="offset 2 is beyond the end of the log, 1"):
        log.read(topic, 0, 2, 1)


def test_trimmed_records_are_gone_and_the_others_stay(log: Log, topic: str) -> None:
    log.append(topic, [b"%d" % number for number in range(1_200)], time_ms=1)
    log.trim(topic, 0, 1_100)
    assert (log.start_offset(topic), log.end_offset(topic)) == (1_100, 1_200)
    with pytest.raises(OffsetTrimmed, match="offset 3 is gone, the log starts at 1100") as caught:
        log.read(topic, 0, 3, 10, timeout_s=0.01)
    assert (caught.value.topic, caught.value.partition, caught.value.offset, caught.value.start) == (topic, 0, 3, 1_100)
    assert values(log, topic, offset=1_100) == [b"%d" % number for number in range(1_100, 1_200)]
    log.trim(topic, 0, 50)
    assert log.start_offset(topic) == 1_100


def test_offsets_continue_after_everything_was_trimmed(log: Log, topic: str) -> None:
    log.append(topic, [b"a", b"b"], time_ms=1)
    log.trim(topic, 0, 1_000)
    assert (log.start_offset(topic), log.end_offset(topic)) == (2, 2)
    assert log.read(topic, 0, 2, 1) == []
    assert log.append(topic, [b"c"], time_ms=1) == 3
    assert values(log, topic, offset=2) == [b"c"]


def test_a_time_is_looked_up_among_times_out_of_order(log: Log, topic: str) -> None:
    assert log.offset_at(topic, 0, 5) == 0
    generator = np.random.default_rng(7)
    times: list[int] = []
    for base in range(0, 400, 10):
        time_ms = 1_000 + base + int(generator.integers(-60, 60))
        count = int(generator.integers(1, 4))
        log.append(topic, [b"x"] * count, time_ms=time_ms)
        times += [time_ms] * count
    for start in (0, 1, 30, 31, 33, len(times)):
        log.trim(topic, 0, start)
        for time_ms in range(900, 1_500, 37):
            expected = next((offset for offset in range(start, len(times)) if times[offset] >= time_ms), len(times))
            assert log.offset_at(topic, 0, time_ms) == expected, (start, time_ms)


def test_an_appended_record_is_there_after_reopening(url: str, topic: str, make_log: Make) -> None:
    first = make_log(url)
    first.append(topic, [b"a"], time_ms=1)
    first.close()
    second = make_log(url)
    assert second.append(topic, [b"b"], time_ms=1) == 2
    assert values(second, topic) == [b"a", b"b"]


def test_a_closed_log_is_an_error(log: Log, topic: str) -> None:
    log.append(topic, [b"a"], time_ms=1)
    log.read(topic, 0, 0, 1)
    log.close()
    log.close()
    with pytest.raises(LogError, match="the log is closed"):
        log.append(topic, [b"b"], time_ms=1)
    with pytest.raises(LogError, match="the log is closed"):
        log.read(topic, 0, 0, 1)


def test_threads_append_without_loss_and_each_in_its_order(log: Log, topic: str, work_factor: int) -> None:
    ends: list[int] = []
    count = 50 * work_factor

    def append(name: int) -> None:
        ends.extend(log.append(topic, [b"%d %d" % (name, number)], time_ms=number) for number in range(count))

    threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [tuple(map(int, value.split())) for value in values(log, topic)]
    assert sorted(ends) == list(range(1, 4 * count + 1))
    for name in range(4):
        assert [number for one, number in found if one == name] == list(range(count))


def appender(url: str, topic: str, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDER, url, topic, name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_append_at_once_without_loss(url: str, log: Log, topic: str, work_factor: int) -> None:
    count = 40 * work_factor
    processes = [appender(url, topic, name, count) for name in ("a", "b")]
    ends = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(ends) == list(range(1, 2 * count + 1))
    found = values(log, topic)
    for name in ("a", "b"):
        assert [value for value in found if value.startswith(name.encode())] == [f"{name} {number}".encode() for number in range(count)]


def test_acknowledged_records_survive_kill_9_of_the_appending_process(url: str, log: Log, topic: str) -> None:
    process = appender(url, topic, "a", sys.maxsize)
    assert process.stdout is not None
    with process:
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines(keepends=True)  # with what the text layer has read ahead
    acknowledged = 20 + sum(line.endswith("\n") for line in rest)
    found = values(log, topic)
    # The last append may have been on its way: in the log, not yet acknowledged.
    assert len(found) in (acknowledged, acknowledged + 1)
    assert found == [f"a {number}".encode() for number in range(len(found))]
    assert log.append(topic, [b"next"], time_ms=1) == len(found) + 1
