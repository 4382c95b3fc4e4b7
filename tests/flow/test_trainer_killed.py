"""Flow (a) under fire: the trainer's process is killed with SIGKILL again and again, and every example still counts exactly once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.sync import Delta, Subscriber, decode_delta, unpack_rows
from monolith_py.table import EmbeddingTable
from monolith_py.training import Checkpoint

NUM_KILLS, RECORDS_BETWEEN_KILLS, RECORDS_PER_FEED = 3, 128, 16
EXAMPLES_PER_RECORD, BATCH_SIZE = 100, 64  # 16 records are 25 batches
START_MS, MS_PER_RECORD = 1_700_000_000_000, 10_000
LEAD_MS = 64 * MS_PER_RECORD

TOML = """
name = "killed"

[log]
url = "sqlite:///{folder}/log"
partitions = 2

[kv]
url = "memory:"

[[features]]
name = "user_id"
source = "user_id"
dim = 8
ttl_s = 300

[[features]]
name = "video_id"
source = "item_id"
dim = 8
admit_after = 2

[[tasks]]
name = "click"
action = "click"

[model]
tower = [32, 16]
precision = "fp32"

[model.sparsity]
preset = "dsl_online"
update_interval = 10
ramp = [20, 200]
score_batches = 5

[optimizer.dense]
reference_batch = 96

[trainer]
batch_size = {batch_size}
checkpoint_dir = "{folder}/checkpoints"
checkpoint_interval_s = 0.2
evict_interval_s = 60.0
num_threads = 1

[sync]
encoding = "fp32"
sparse_interval_s = 0.03
dense_interval_s = 0.2
"""


@pytest.mark.slow
def test_a_trainer_killed_again_and_again_learns_every_example_exactly_once(tmp_path: Path, work_factor: int) -> None:
    calm, killed = make_job(tmp_path / "calm"), make_job(tmp_path / "killed")
    generator = np.random.default_rng(7)
    with closing(open_log(killed.log.url)) as log:
        create_topics(log, killed.log)
        stream = Stream(log, Topics.of(killed.log).examples)
        for _ in range(NUM_KILLS):
            stream.append_to_both(RECORDS_BETWEEN_KILLS * work_factor)
            kill_after_some_updates(tmp_path / "killed", killed, stream, int(generator.integers(3, 25)))
        stream.append_to_both(RECORDS_BETWEEN_KILLS * work_factor)
    examples = Topics.of(killed.log).examples
    shutil.copytree(tmp_path / "killed" / "log" / examples, tmp_path / "calm" / "log" / examples)
    with closing(open_log(calm.log.url)) as log:
        create_topics(log, calm.log)
    finish(tmp_path / "killed")
    finish(tmp_path / "calm")

    assert newest(killed).meta.examples_trained == stream.num_records * EXAMPLES_PER_RECORD
    assert newest(killed).meta.step == newest(calm).meta.step
    assert newest(killed).meta.generation == NUM_KILLS + 1
    for name in ("user_id", "video_id"):
        expected, got = table(calm, name), table(killed, name)
        assert expected.stats().evicted > 0 or name == "video_id"
        # A checkpoint copied while the trainer learns has rows twice, and a table restored from it more memory.
        assert replace(expected.stats(), bytes=0) == replace(got.stats(), bytes=0)
        np.testing.assert_array_equal(expected.export_rows()[0], got.export_rows()[0])
        np.testing.assert_array_equal(expected.export_rows()[1], got.export_rows()[1])
    dense = newest(calm).dense()
    for key, value in newest(killed).dense().items():
        assert bool((dense[key] == value).all()), key
    assert int(dense["tower.layers.0.topology_version"]) > 10  # the topology moved all the time
    assert_replica_equals_trainer(killed)


def make_job(folder: Path) -> JobConfig:
    folder.mkdir()
    (folder / "job.toml").write_text(TOML.format(folder=folder, batch_size=BATCH_SIZE))
    return load_job(folder / "job.toml")


class Stream:
    """Examples in time order, made from one seed and appended in whole batches while a trainer runs or does not.

    The trainer takes the earliest record among the partitions that have one, so its batches depend on the log alone only as long as no
    partition gets a record that is earlier than what the other one has given already. Both partitions grow while no trainer runs, the
    first one alone while one does.
    """

    def __init__(self, log: Log, topic: str) -> None:
        self._log, self._topic = log, topic
        self._generator = np.random.default_rng(1)
        self.num_records = 0
        self.end_ms = START_MS

    def append_to_both(self, num_records: int) -> None:
        """Append records, one in three to the second partition."""
        assert num_records * EXAMPLES_PER_RECORD % BATCH_SIZE == 0
        for place in range(num_records):
            self._append(1, partition=int(place % 3 == 2))

    def append_to_first(self) -> None:
        """Append a few batches in one transaction: the trainer sees all of them or none, and no batch is cut short."""
        self._append(RECORDS_PER_FEED, partition=0)

    def _append(self, num_records: int, partition: int) -> None:
        batches = [self._next() for _ in range(num_records)]
        times_ms = [int(batch.times_ms[-1]) for batch in batches]
        self._log.append(self._topic, [encode_examples(batch) for batch in batches], time_ms=times_ms, partition=partition)
        self.end_ms = times_ms[-1]

    def _next(self) -> ExampleBatch:
        generator, number, n = self._generator, self.num_records, EXAMPLES_PER_RECORD
        ones = np.ones(n, np.int32)
        users = generator.integers(0, 400, n) + number * 4
        self.num_records += 1
        return ExampleBatch(
            tuple(f"{number}-{row}" for row in range(n)),
            generator.zipf(1.3, n).astype(np.int64) % 10_000,
            np.sort(START_MS + number * MS_PER_RECORD + generator.integers(0, MS_PER_RECORD, n)),
            np.zeros(n, np.uint8),
            np.ones(n, np.float32),
            {"click": (users % 2).astype(np.float32)},
            FeatureColumns(
                n, {"user_id": SparseColumn(users, ones), "video_id": SparseColumn(generator.zipf(1.3, n).astype(np.int64), ones)}
            ),
        )


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "monolith_py.cli", "train", "--config", str(folder / "job.toml"), *arguments])


def finish(folder: Path) -> None:
    child = start(folder, "--stop-at-end")
    try:
        assert child.wait() == 0
    finally:
        child.kill()
        child.wait()


def kill_after_some_updates(folder: Path, job: JobConfig, stream: Stream, num_updates: int) -> None:
    """Start the trainer, let it publish `num_updates` deltas after a checkpoint of its own, and kill it in the middle of its work.

    It is fed until then: the log ends `LEAD_MS` of event time after what it has published last.
    """
    checkpoints = Path(job.trainer.checkpoint_dir)
    before = Checkpoint.newest(checkpoints)
    child, clock = start(folder), SystemClock()
    with closing(open_log(job.log.url)) as log:
        updates, goal = Topics.of(job.log).updates, None
        try:
            while goal is None or log.end_offset(updates) < goal:
                assert child.poll() is None, f"the trainer ended with {child.returncode}"
                if goal is None and is_later(Checkpoint.newest(checkpoints), before):
                    goal = log.end_offset(updates) + num_updates
                if stream.end_ms < published_ms(log, updates) + LEAD_MS:
                    stream.append_to_first()
                clock.sleep(0.005)
        finally:
            child.kill()
            child.wait()
    assert child.returncode == -signal.SIGKILL


def is_later(checkpoint: Checkpoint | None, before: Checkpoint | None) -> bool:
    """Return whether `checkpoint` was written after `before`; the one that a first trainer begins with is none of its own."""
    return checkpoint is not None and checkpoint.path.name > (before.path.name if before else "step-000000000000")


def published_ms(log: Log, updates: str) -> int:
    """Return the event time that the newest delta has reached, 0 where there is none."""
    end = log.end_offset(updates)
    return decode_delta(log.read(updates, 0, end - 1, 1)[0].value).watermark_ms if end else 0


def newest(job: JobConfig) -> Checkpoint:
    checkpoint = Checkpoint.newest(Path(job.trainer.checkpoint_dir))
    assert checkpoint is not None
    return checkpoint


def table(job: JobConfig, name: str) -> EmbeddingTable:
    return EmbeddingTable.restore(newest(job).table(name))


class Rows:
    """A replica that keeps rows as a dict for each table."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, bytes]] = {"": {}}

    def apply(self, delta: Delta) -> None:
        rows = self.rows.setdefault(delta.table, {})
        if delta.table:
            for fid in delta.evicted.tolist():
                rows.pop(fid, None)
            weights = unpack_rows(delta.rows, delta.dim, delta.encoding)
            rows.update({int(fid): row.tobytes() for fid, row in zip(delta.fids, weights, strict=True)})


def assert_replica_equals_trainer(job: JobConfig) -> None:
    """Whoever followed all updates of all generations has the very rows of the trainer."""
    log, replica = open_log(job.log.url), Rows()
    updates = Topics.of(job.log).updates
    subscriber = Subscriber(log, updates, offset=0, next_delta=(0, 0))
    while subscriber.offset < log.end_offset(updates):
        for delta in subscriber.read(0.0):
            replica.apply(delta)
    log.close()
    for name in ("user_id", "video_id"):
        fids, weights = table(job, name).export_rows()
        assert replica.rows[name] == {int(fid): row.tobytes() for fid, row in zip(fids, weights, strict=True)}
