"""Channels: replicas serve the checkpoint that was promoted, whatever the trainer writes, prunes or rolls back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.errors import AlreadyRunning, CheckpointError, ConfigError, NotReady
from monolith_py.io import MemoryLog
from monolith_py.io.log.topics import create_topics
from monolith_py.io.role_lock import role_lock
from monolith_py.training import Checkpoint, CheckpointMeta, Trainer, channel_folder, save_checkpoint
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.versions import promote, roll_back, versions

NOW_MS = 1_700_000_000_000


@pytest.fixture
def job(make_job: Callable[..., JobConfig]) -> JobConfig:
    return make_job()


@pytest.fixture
def log(job: JobConfig) -> MemoryLog:
    log = MemoryLog()
    create_topics(log, job.log)
    return log


def save(job: JobConfig, step: int, saved_ms: int = NOW_MS) -> None:
    """Write a checkpoint as a trainer that keeps two."""
    meta = CheckpointMeta(job.name, step, 0, 1, step, 0, {0: (0, 0)}, 0, saved_ms + step)
    save_checkpoint(Path(job.trainer.checkpoint_dir), Trainer(job), meta, keep=2)


def replica_of(job: JobConfig, *, follow_checkpoints: bool = True) -> Replica:
    serving = job.serving.model_copy(update={"channel": "stable", "follow_updates": False, "follow_checkpoints": follow_checkpoints})
    return Replica(job.model_copy(update={"serving": serving}), None, torch.device("cpu"), ManualClock(NOW_MS))


def in_channel(job: JobConfig) -> list[str]:
    return [one.path.name for one in Checkpoint.all_in(channel_folder(Path(job.trainer.checkpoint_dir), "stable"))]


def test_a_replica_of_a_channel_serves_what_was_promoted_also_an_older_one(job):
    replica = replica_of(job)
    save(job, 1)
    assert not replica.load_newest()
    with pytest.raises(NotReady, match="no checkpoint in channel 'stable' in"):
        replica.require_ready()
    assert promote(job, "stable") == "step-000000000001"
    assert replica.load_newest() and replica.state.version == "1.1"
    save(job, 2)
    assert not replica.load_newest(), "the trainer alone changes no channel"
    promote(job, "stable", "2")
    assert replica.load_newest() and replica.state.version == "1.2"
    assert promote(job, "stable", "step-000000000001") == "step-000000000001"
    assert replica.load_newest() and replica.state.version == "1.1"
    assert in_channel(job) == ["step-000000000001"]


def test_two_promotions_to_a_channel_never_empty_it(job):
    save(job, 1)
    save(job, 2)
    promote(job, "stable", "1")
    folder = channel_folder(Path(job.trainer.checkpoint_dir), "stable")
    with (
        role_lock(folder / ".promoting.lock", "promotion", CheckpointError),
        pytest.raises(AlreadyRunning, match="one promotion to a channel at a time must run"),
    ):
        promote(job, "stable", "2")
    assert in_channel(job) == ["step-000000000001"]
    promote(job, "stable", "2")
    assert in_channel(job) == ["step-000000000002"]


def test_a_promoted_checkpoint_outlives_the_trainers_pruning(job, log):
    save(job, 1)
    promote(job, "stable")
    for step in (2, 3, 4):
        save(job, step)
    assert replica_of(job).load_newest()
    listed = {one.name: one.version for one in versions(job, log)}
    assert listed == {"step-000000000004": "1.4", "step-000000000003": "1.3", "channels/stable/step-000000000001": "1.1"}
    promote(job, "canary", "channels/stable/step-000000000001")
    assert {"channels/canary/step-000000000001", "channels/stable/step-000000000001"} < {one.name for one in versions(job, log)}


def test_a_rollback_to_a_promoted_checkpoint_leaves_it_in_its_channel(job, log):
    save(job, 1)
    promote(job, "stable")
    for step in (2, 3, 4):
        save(job, step)
    roll_back(job, log, "channels/stable/step-000000000001", skip_until={0: 0})
    assert [one.path.name for one in Checkpoint.all_in(Path(job.trainer.checkpoint_dir))] == ["step-000000000001"]
    assert in_channel(job) == ["step-000000000001"]


def test_a_promotion_twice_changes_nothing_and_one_of_another_checkpoint_of_the_step_replaces_it(job):
    save(job, 1)
    assert [promote(job, "stable"), promote(job, "stable", "1")] == ["step-000000000001"] * 2
    replica = replica_of(job)
    assert replica.load_newest()
    save(job, 1, saved_ms=NOW_MS + 60_000)
    assert promote(job, "stable") == "step-000000000001.0001"
    assert in_channel(job) == ["step-000000000001.0001"]
    assert replica.load_newest()


def test_a_file_system_without_hard_links_gets_copies(job, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    save(job, 1)
    monkeypatch.setattr(os, "link", refuse)
    promote(job, "stable")
    assert replica_of(job).load_newest()


def test_a_damaged_checkpoint_is_not_promoted_and_the_former_stays(job):
    save(job, 1)
    promote(job, "stable")
    save(job, 2)
    (Path(job.trainer.checkpoint_dir) / "step-000000000002" / "dense.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"dense\.safetensors"):
        promote(job, "stable", "2")
    assert in_channel(job) == ["step-000000000001"]
    assert promote(job, "stable") == "step-000000000001", "the newest intact one"


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "1st"])
def test_a_name_that_is_no_channel_is_refused(job, name):
    save(job, 1)
    with pytest.raises(ConfigError, match="--channel must match"):
        promote(job, name)


def test_without_a_checkpoint_there_is_nothing_to_promote(job):
    with pytest.raises(CheckpointError, match="must hold an intact checkpoint, got"):
        promote(job, "stable")
    with pytest.raises(CheckpointError, match="--to must name a checkpoint"):
        promote(job, "stable", "7")
