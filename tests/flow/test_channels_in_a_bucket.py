"""Channels in an object store, by the S3 API of a local server: promotion, replicas, pruning and rollback as in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from monolith_py.clock import ManualClock, SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import CheckpointError
from monolith_py.io import MemoryLog
from monolith_py.io.log.topics import create_topics
from monolith_py.training import CheckpointMeta, CheckpointSaving, Retention, Trainer, open_checkpoints
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.versions import promote, roll_back, versions
from tests.s3_server import S3Server, s3_server

NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def job(server: S3Server, tmp_path: Path) -> JobConfig:
    return job_of(server, tmp_path)


def job_of(server: S3Server, folder: Path, **serving: Any) -> JobConfig:
    return parse_job(
        {
            "name": "shop",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "trainer": {"checkpoint_dir": f"s3://bucket/{folder.name}", "num_threads": 1},
            "objects": {"endpoint": server.endpoint, "region": "us-east-1", "cache_dir": str(folder)},
            "sync": {"encoding": "int8"},
            "serving": serving,
        }
    )


def save(job: JobConfig, *steps: int) -> None:
    """Write checkpoints as a trainer that keeps one."""
    store, trainer = open_checkpoints(job, "trainer", SystemClock()), Trainer(job)
    for step in steps:
        saving = CheckpointSaving(store, trainer, Retention(1))
        saving.freeze(CheckpointMeta(job.name, step, 0, 1, step, 0, {0: (0, 0)}, 0, NOW_MS + step))
        saving.wait()


def test_replicas_of_a_channel_serve_what_was_promoted_and_no_trainer_prunes_it(server, job, tmp_path):
    log = MemoryLog()
    create_topics(log, job.log)
    of_channel = job_of(server, tmp_path, channel="stable", follow_updates=False, follow_checkpoints=True)
    replica = Replica(of_channel, None, torch.device("cpu"), ManualClock(NOW_MS))
    save(job, 1)
    assert not replica.load_newest()
    assert promote(job, "stable") == "step-000000000001"
    assert replica.load_newest() and replica.state.version == "1.1"
    save(job, 2, 3)
    assert {one.name for one in versions(job, log)} == {"step-000000000003", "channels/stable/step-000000000001"}
    late = Replica(of_channel, None, torch.device("cpu"), ManualClock(NOW_MS))
    assert late.load_newest() and late.state.version == "1.1", "its files are there although the trainer has pruned it"
    for _ in range(2):
        assert promote(job, "canary", "channels/stable/step-000000000001") == "step-000000000001"
    promote(job, "stable", "3")
    assert replica.load_newest() and replica.state.version == "1.3"
    roll_back(job, log, "channels/canary/step-000000000001", skip_until={0: 0})
    assert {one.name for one in versions(job, log)} == {
        "step-000000000001",
        "rolled-back/step-000000000003",
        "channels/stable/step-000000000003",
        "channels/canary/step-000000000001",
    }
    roll_back(job, log, "channels/stable/step-000000000003")
    save(job, 4)
    assert replica.load_newest() is False and replica.state.version == "1.3"
    names = {key.split("/")[1] for key in server.keys("bucket", f"{tmp_path.name}/") if f"{tmp_path.name}/step-" in key}
    assert names == {f"step-{step:012d}" for step in (1, 3, 4)}


def test_a_channel_without_a_checkpoint_and_a_checkpoint_that_is_none(job):
    with pytest.raises(CheckpointError, match="must hold an intact checkpoint, got 's3://bucket/"):
        promote(job, "stable")
    with pytest.raises(CheckpointError, match="--to must name a checkpoint"):
        promote(job, "stable", "7")
