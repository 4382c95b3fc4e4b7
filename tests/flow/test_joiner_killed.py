"""A real joiner process, killed with SIGKILL at moments of its own progress: every example is in the log exactly once."""

from __future__ import annotations

import heapq
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
from monolith_py.data.counters import LiveCounters
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
idle_timeout_s = 1e6
max_records = 20
examples_per_record = {examples_per_record}
[trainer]
checkpoint_dir = "{folder}/checkpoints"
"""
START_MS, MS_PER_REQUEST = 1_700_000_000_000, 500
EXAMPLES_PER_RECORD = 16  # at most
NUM_REQUESTS = 3000
NUM_KILLS = 12
# More requests than the window holds: with so many ahead of it the joiner writes examples.
LEAD_REQUESTS = 500
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
    path.write_text(TOML.format(folder=tmp_path, examples_per_record=EXAMPLES_PER_RECORD))
    return path


@pytest.mark.slow
def test_a_joiner_killed_again_and_again_emits_every_example_exactly_once(config: Path, work_factor: int) -> None:
    job = load_job(config)
    with closing(open_log(job.log.url)) as log:
        stream, rng = Stream(job, log), random.Random(11)
        for _ in range(NUM_KILLS):
            process = start(config, stop_at_end=False)
            try:
                feed_until(stream, process, num_records(job, log) + rng.randint(1, 12))
            finally:
                process.kill()
                process.wait()
            assert process.returncode == -signal.SIGKILL
        stream.append(NUM_REQUESTS * work_factor)
        stream.end()
        assert start(config, stop_at_end=True).wait() == 0
        assert examples(job, log) == stream.expected
    with closing(SqliteKv(config.parent / "kv.db")) as kv:
        counts = np.sum([LiveCounters.of(job).decode(value) for _, value in kv.scan("counter:")], axis=0)
    assert counts.tolist() == [[stream.num_requests, stream.num_clicks]]


def test_sigterm_stops_the_joiner_cleanly_and_the_next_run_goes_on(config: Path) -> None:
    job = load_job(config)
    with closing(open_log(job.log.url)) as log:
        stream = Stream(job, log)
        process = start(config, stop_at_end=False)
        try:
            feed_until(stream, process, 5)
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            process.kill()
            process.wait()
        stream.append(LEAD_REQUESTS)
        stream.end()
        assert start(config, stop_at_end=True).wait() == 0
        assert examples(job, log) == stream.expected


class Stream:
    """Impressions and actions made from one seed, each topic in time order, appended while a joiner runs or does not."""

    def __init__(self, job: JobConfig, log: Log) -> None:
        create_topics(log, job.log)
        self.job, self.log, self._topics = job, log, Topics.of(job.log)
        self._rng = random.Random(5)
        self._actions: list[tuple[int, int, bytes]] = []  # a heap of those to come: time, partition, value
        self.num_requests = self.num_clicks = 0
        self.expected: Counter[Example] = Counter()

    def append(self, num_requests: int) -> None:
        """Append the impressions of so many requests, and the actions up to the time of the last."""
        impressions: dict[int, list[tuple[int, bytes]]] = {}
        for index in range(self.num_requests, self.num_requests + num_requests):
            request_id, item_id, time_ms = f"r{index}", index % 50, START_MS + index * MS_PER_REQUEST
            partition = partition_of(request_id, self.job.log.partitions)
            impressions.setdefault(partition, []).append((time_ms, impression(request_id, item_id, time_ms)))
            delay_ms = self._rng.choice([None, 2_000, 90_000])
            if delay_ms is not None:
                action = encode_action(Action(request_id, item_id, "click", time_ms + delay_ms))
                heapq.heappush(self._actions, (time_ms + delay_ms, partition, action))
                self.num_clicks += 1
            self.expected[request_id, item_id, 0, int(delay_ms == 2_000)] += 1
            if delay_ms == 90_000:
                self.expected[request_id, item_id, 1, 1] += 1
        self.num_requests += num_requests
        self._append(self._topics.impressions, impressions)
        self._append_actions(START_MS + self.num_requests * MS_PER_REQUEST)

    def end(self) -> None:
        """Append the actions that are still to come."""
        self._append_actions(max((time_ms for time_ms, _, _ in self._actions), default=0))

    def _append_actions(self, up_to_ms: int) -> None:
        due: dict[int, list[tuple[int, bytes]]] = {}
        while self._actions and self._actions[0][0] <= up_to_ms:
            time_ms, partition, value = heapq.heappop(self._actions)
            due.setdefault(partition, []).append((time_ms, value))
        self._append(self._topics.actions, due)

    def _append(self, topic: str, values: dict[int, list[tuple[int, bytes]]]) -> None:
        for partition, timed in values.items():
            self.log.append(topic, [value for _, value in timed], time_ms=[time_ms for time_ms, _ in timed], partition=partition)


def impression(request_id: str, item_id: int, time_ms: int) -> bytes:
    one = np.ones(1, np.int32)
    columns = FeatureColumns(1, {"video_id": SparseColumn(np.array([item_id]), one)})
    return encode_impression(
        Impression(request_id, time_ms, 1, np.array([item_id]), FeatureColumns(1), columns, np.zeros((1, 0), np.float32))
    )


def start(config: Path, *, stop_at_end: bool) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(config), str(stop_at_end)])


def feed_until(stream: Stream, process: subprocess.Popen[bytes], goal: int) -> None:
    """Keep the stream ahead of the joiner until it has written `goal` records, on both partitions together."""
    job, log, topic = stream.job, stream.log, Topics.of(stream.job.log).examples
    while (written := num_records(job, log)) < goal:
        assert process.poll() is None, f"the joiner ended with {process.returncode}"
        if stream.num_requests < written * EXAMPLES_PER_RECORD + LEAD_REQUESTS:
            stream.append(LEAD_REQUESTS // 5)
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
