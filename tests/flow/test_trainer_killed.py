"""Flow (a) under fire: the trainer's process is killed with SIGKILL again and again, and every example still counts exactly once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import open_log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.sync import Delta, Subscriber, unpack_rows
from monolith_py.table import EmbeddingTable
from monolith_py.training import newest_checkpoint, read_meta

NUM_RECORDS, EXAMPLES_PER_RECORD, NUM_KILLS = 500, 100, 3

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
update_interval = 20
ramp = [40, 300]
score_batches = 5

[trainer]
batch_size = 64
checkpoint_dir = "{folder}/checkpoints"
checkpoint_interval_s = 0.4
evict_interval_s = 60.0
num_threads = 1

[sync]
encoding = "fp32"
sparse_interval_s = 0.03
dense_interval_s = 0.2
"""


@pytest.mark.slow
def test_a_trainer_killed_again_and_again_learns_every_example_exactly_once(tmp_path: Path) -> None:
    calm, killed = make_job(tmp_path / "calm"), make_job(tmp_path / "killed")
    fill_log(calm)
    shutil.copytree(tmp_path / "calm" / "log", tmp_path / "killed" / "log", dirs_exist_ok=True)

    finish(tmp_path / "calm")
    generator = np.random.default_rng(7)
    for _ in range(NUM_KILLS):
        kill_after_some_updates(tmp_path / "killed", killed, int(generator.integers(3, 25)))
    finish(tmp_path / "killed")

    assert read_meta(newest(killed)).examples_trained == NUM_RECORDS * EXAMPLES_PER_RECORD
    assert read_meta(newest(killed)).step == read_meta(newest(calm)).step
    assert read_meta(newest(killed)).generation == NUM_KILLS + 1
    for name in ("user_id", "video_id"):
        expected, got = table(calm, name), table(killed, name)
        assert expected.stats().evicted > 0 or name == "video_id"
        assert expected.stats() == got.stats()
        np.testing.assert_array_equal(expected.export_rows()[0], got.export_rows()[0])
        np.testing.assert_array_equal(expected.export_rows()[1], got.export_rows()[1])
    dense = load_file(newest(calm) / "dense.safetensors")
    for key, value in load_file(newest(killed) / "dense.safetensors").items():
        assert bool((dense[key] == value).all()), key
    assert int(dense["tower.layers.0.topology_version"]) > 20  # the topology moved all the time
    assert_replica_equals_trainer(killed)


def make_job(folder: Path) -> JobConfig:
    folder.mkdir()
    (folder / "job.toml").write_text(TOML.format(folder=folder))
    return load_job(folder / "job.toml")


def fill_log(job: JobConfig) -> None:
    """Write a stream of 50,000 examples in time order, one record in three to the second partition."""
    log = open_log(job.log.url)
    create_topics(log, job.log)
    generator = np.random.default_rng(1)
    for number in range(NUM_RECORDS):
        n, ones = EXAMPLES_PER_RECORD, np.ones(EXAMPLES_PER_RECORD, np.int32)
        users = generator.integers(0, 400, n) + number * 4
        times_ms = np.sort(1_700_000_000_000 + number * 10_000 + generator.integers(0, 10_000, n))
        batch = ExampleBatch(
            tuple(f"{number}-{row}" for row in range(n)),
            generator.zipf(1.3, n).astype(np.int64) % 10_000,
            times_ms,
            np.zeros(n, np.uint8),
            np.ones(n, np.float32),
            {"click": (users % 2).astype(np.float32)},
            FeatureColumns(
                n, {"user_id": SparseColumn(users, ones), "video_id": SparseColumn(generator.zipf(1.3, n).astype(np.int64), ones)}
            ),
        )
        log.append(Topics.of(job.log).examples, [encode_examples(batch)], time_ms=int(times_ms[-1]), partition=int(number % 3 == 2))
    log.close()


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "monolith_py.cli", "train", "--config", str(folder / "job.toml"), "--stop-at-end"])


def finish(folder: Path) -> None:
    assert start(folder).wait(120) == 0


def kill_after_some_updates(folder: Path, job: JobConfig, num_updates: int) -> None:
    """Start the trainer, let it publish `num_updates` deltas after a checkpoint of its own, and kill it in the middle of what it does."""
    log, topic = open_log(job.log.url), Topics.of(job.log).updates
    before = newest_checkpoint(Path(job.trainer.checkpoint_dir))
    child = start(folder)
    try:
        wait_until(child, lambda: newest_checkpoint(Path(job.trainer.checkpoint_dir)) != before)
        target = log.end_offset(topic) + num_updates
        wait_until(child, lambda: log.end_offset(topic) >= target)
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
        log.close()


def wait_until(child: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + 60
    while not condition():
        assert child.poll() is None, "the trainer ended before it could be killed: give it more to do"
        assert clock.monotonic_s() < deadline_s
        clock.sleep(0.01)


def newest(job: JobConfig) -> Path:
    path = newest_checkpoint(Path(job.trainer.checkpoint_dir))
    assert path is not None
    return path


def table(job: JobConfig, name: str) -> EmbeddingTable:
    return EmbeddingTable.restore(newest(job) / "tables" / f"{name}.table")


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
