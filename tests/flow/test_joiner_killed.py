"""A real joiner process, killed with SIGKILL at moments of its own progress: every example is in the log exactly once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from monolith_py.config import JobConfig, load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import decode_counts
from monolith_py.data.events import Action, Impression
from monolith_py.io import Log, SqliteKv, open_log
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.log.topics import Topics, create_topics, partition_of

TOML = """
name = "killed"
[log]
url = "sqlite:///{folder}/log"
partitions = 2
[kv]
url = "sqlite:///{folder}/kv.db"
[[features]]
name = "video_id"
source = "item_id"
[[tasks]]
name = "is_click"
action = "click"
[counters]
enabled = true
keys = ["video_id"]
[joiner]
window_s = 60.0
max_out_of_orderness_s = 5.0
allowed_lateness_s = 600.0
max_records = 20
examples_per_record = 16
[trainer]
checkpoint_dir = "{folder}/checkpoints"
"""
START_MS = 1_700_000_000_000
NUM_REQUESTS = 3000
NUM_KILLS = 12
RUN = """
import sys
from monolith_py.config import load_job
from monolith_streaming.joiner.process import run_joiner
run_joiner(load_job(sys.argv[1]), stop_at_end=sys.argv[2] == "True")
"""
Example = tuple[str, int, int, int]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(TOML.format(folder=tmp_path))
    return path


@pytest.mark.slow
def test_a_joiner_killed_again_and_again_emits_every_example_exactly_once(config: Path) -> None:
    job = load_job(config)
    with closing(open_log(job.log.url)) as log:
        expected, clicks = write_stream(job, log)
        rng = random.Random(11)
        for _ in range(NUM_KILLS):
            goal = num_records(job, log) + rng.randint(1, 12)
            process = start(config, stop_at_end=False)
            wait_for_records(job, log, process, goal)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        assert num_records(job, log) < sum(expected.values()) / 16, "killed too late to tell"
        process = start(config, stop_at_end=True)
        assert process.wait(timeout=120) == 0
        assert examples(job, log) == expected
    with closing(SqliteKv(config.parent / "kv.db")) as kv:
        counts = np.sum([decode_counts(value, 1) for _, value in kv.scan("counter:")], axis=0)
    assert counts.tolist() == [NUM_REQUESTS, clicks]


def test_sigterm_stops_the_joiner_cleanly_and_the_next_run_goes_on(config: Path) -> None:
    job = load_job(config)
    with closing(open_log(job.log.url)) as log:
        expected, _ = write_stream(job, log)
        process = start(config, stop_at_end=False)
        wait_for_records(job, log, process, 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert num_records(job, log) < sum(expected.values()) / 16, "stopped too late to tell"
        assert start(config, stop_at_end=True).wait(timeout=120) == 0
        assert examples(job, log) == expected


def write_stream(job: JobConfig, log: Log) -> tuple[Counter[Example], int]:
    """Append the whole stream; return the examples that it makes, and its number of clicks."""
    create_topics(log, job.log)
    topics = Topics.of(job.log)
    rng = random.Random(5)
    expected: Counter[Example] = Counter()
    values: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
    clicks = 0
    for index in range(NUM_REQUESTS):
        request_id, item_id, time_ms = f"r{index}", index % 50, START_MS + index * 500
        partition = partition_of(request_id, job.log.partitions)
        delay_ms = rng.choice([None, 2_000, 90_000])
        values.setdefault((topics.impressions, partition), []).append((time_ms, impression(request_id, item_id, time_ms)))
        if delay_ms is not None:
            action = encode_action(Action(request_id, item_id, "click", time_ms + delay_ms))
            values.setdefault((topics.actions, partition), []).append((time_ms + delay_ms, action))
            clicks += 1
        expected[request_id, item_id, 0, int(delay_ms == 2_000)] += 1
        expected[request_id, item_id, 1, 1] += delay_ms == 90_000
    for (topic, partition), timed in values.items():
        log.append(topic, [value for _, value in sorted(timed)], time_ms=START_MS, partition=partition)
    return +expected, clicks


def impression(request_id: str, item_id: int, time_ms: int) -> bytes:
    one = np.ones(1, np.int32)
    columns = FeatureColumns(1, {"video_id": SparseColumn(np.array([item_id]), one)})
    return encode_impression(
        Impression(request_id, time_ms, 1, np.array([item_id]), FeatureColumns(1), columns, np.zeros((1, 0), np.float32))
    )


def start(config: Path, *, stop_at_end: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(config), str(stop_at_end)])


def wait_for_records(job: JobConfig, log: Log, process: subprocess.Popen[bytes], goal: int) -> None:
    """Wait until the joiner has written `goal` records, on both partitions together."""
    topic = Topics.of(job.log).examples
    while num_records(job, log) < goal:
        assert process.poll() is None, f"the joiner ended with {process.returncode}"
        log.read(topic, 0, log.end_offset(topic, 0), 1, timeout_s=0.002)


def num_records(job: JobConfig, log: Log) -> int:
    topic = Topics.of(job.log).examples
    return sum(log.end_offset(topic, partition) for partition in range(job.log.partitions))


def examples(job: JobConfig, log: Log) -> Counter[Example]:
    found: Counter[Example] = Counter()
    topic = Topics.of(job.log).examples
    for partition in range(job.log.partitions):
        for record in log.read(topic, partition, 0, 1_000_000):
            batch = decode_examples(record.value)
            labels = batch.labels["is_click"].astype(int).tolist()
            found.update(zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), labels, strict=True))
    return found
