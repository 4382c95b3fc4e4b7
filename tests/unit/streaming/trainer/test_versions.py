"""Versions of a model, and the way back to an older one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import AlreadyRunning, CheckpointError, LogError
from monolith_py.io import MemoryLog
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.io.role_lock import role_lock
from monolith_py.training import Checkpoint
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.versions import ASIDE, roll_back, versions
from monolith_streaming.trainer.versions_view import print_versions

NOW_MS = 1_700_000_000_000


@pytest.fixture
def job(make_job: Callable[..., JobConfig]) -> JobConfig:
    return make_job(checkpoints_kept=9, checkpoint_interval_s=1e6)


@pytest.fixture
def log(job: JobConfig) -> MemoryLog:
    log = MemoryLog()
    create_topics(log, job.log)
    return log


@pytest.fixture
def learn(job: JobConfig, log: MemoryLog, make_examples: Callable[..., ExampleBatch]) -> Callable[..., OnlineTraining]:
    """Return a function that appends a record of the given items and runs a trainer to the end of the log."""

    def learn(*items: int) -> OnlineTraining:
        if items:
            time_ms = 1000 * (1 + log.end_offset("examples"))
            log.append("examples", [encode_examples(make_examples(*items, time_ms=time_ms))], time_ms=time_ms)
        training = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
        training.run(stop_at_end=True)
        return training

    return learn


def names(job: JobConfig) -> list[str]:
    return [one.path.name for one in Checkpoint.all_in(Path(job.trainer.checkpoint_dir))]


def replica_of(job: JobConfig, log: MemoryLog) -> Replica:
    replica = Replica(job, log, torch.device("cpu"), ManualClock(NOW_MS))
    assert replica.load_newest()
    while replica._subscriber is not None and replica._subscriber.offset < log.end_offset("updates"):
        assert replica.apply_updates(0.0)
    assert replica._subscriber is not None
    return replica


def test_versions_tell_the_digest_that_replicas_have(
    job: JobConfig, log: MemoryLog, learn: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    learn(1, 2, 3)
    learn(4)
    newest, second, first, empty = versions(job, log)
    assert [newest.name, second.name, first.name, empty.name] == ["updates", *names(job)]
    assert newest.digest == second.digest != first.digest != empty.digest
    assert newest.digest.startswith(f"{replica_of(job, log).state.table.digest:016x}-")
    assert (first.parent, second.parent) == ("", first.version)
    assert (first.examples, second.examples, newest.examples) == (3, 4, None)
    assert newest.version == second.version == replica_of(job, log).state.version
    print_versions([newest, second])
    assert second.version in capsys.readouterr().out


def test_a_damaged_checkpoint_is_listed_as_such(job: JobConfig, log: MemoryLog, learn: Callable[..., Any]) -> None:
    learn(1)
    (Checkpoint.all_in(Path(job.trainer.checkpoint_dir))[0].path / "manifest.json").write_text("?")
    listed = versions(job, log)
    assert "manifest.json" in listed[1].fault and not listed[2].fault
    print_versions(listed)


def test_a_rollback_and_the_way_forward_again(job: JobConfig, log: MemoryLog, learn: Callable[..., Any]) -> None:
    learn(1, 2, 3)
    learn(4)
    learn(5)
    _, bad, good, *_ = names(job)
    replica = replica_of(job, log)
    wanted = versions(job, log)[3].digest
    assert roll_back(job, log, good) == ["step-000000000003", bad]
    assert names(job)[0] == good
    assert [one.name for one in versions(job, log)][-2:] == [f"{ASIDE}/step-000000000003", f"{ASIDE}/{bad}"]

    # Its examples are learnt again by the next trainer; a replica that runs follows it.
    training = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
    training._publisher.flush(0)
    assert str(training._publisher.digest) == wanted
    assert replica.apply_updates(0.0) and replica.state.version.startswith("4.")
    assert f"{replica.state.table.digest:016x}" == wanted.split("-")[0]
    training._publisher.close()

    assert roll_back(job, log, f"{ASIDE}/step-000000000003") == []
    assert names(job)[0] == "step-000000000003"
    assert learn().trainer.num_examples == 5


def test_the_way_forward_is_open_after_the_trainer_has_come_as_far_again(job: JobConfig, log: MemoryLog, learn: Callable[..., Any]) -> None:
    learn(1, 2, 3)
    learn(4)
    newest, good, _ = names(job)
    roll_back(job, log, good)
    assert roll_back(job, log, f"{ASIDE}/{newest}") == []
    roll_back(job, log, good)
    learn()
    again = f"{newest}.0001"  # the name of one put aside is not given again
    generation = Checkpoint(Path(job.trainer.checkpoint_dir) / again).meta.generation
    assert roll_back(job, log, f"{ASIDE}/{newest}") == [again]
    assert names(job)[0] == newest and Checkpoint.all_in(Path(job.trainer.checkpoint_dir))[0].meta.generation < generation
    assert [one.name for one in versions(job, log)][-1] == f"{ASIDE}/{again}"
    assert roll_back(job, log, str(int(newest.removeprefix("step-")))) == [], "the number names the one in use, not the one put aside"


def test_a_number_of_batches_names_the_newest_checkpoint_of_that_step(job: JobConfig, log: MemoryLog, learn: Callable[..., Any]) -> None:
    learn(1)
    learn(2)
    training = OnlineTraining(job, log, ManualClock(NOW_MS), lambda: False)
    training._ask_for_checkpoint()
    training.run(stop_at_end=True)
    assert names(job)[0].endswith("2.0001")
    learn(3)
    assert roll_back(job, log, "2") == ["step-000000000003"]


def test_examples_can_be_skipped(job: JobConfig, log: MemoryLog, learn: Callable[..., Any]) -> None:
    learn(1, 2, 3)
    learn(4, 5)  # bad
    learn(6)  # bad
    learn(7, 8, 9, 10)
    roll_back(job, log, "1", skip_until=4000)
    assert learn().trainer.num_examples == 3 + 4
    roll_back(job, log, "1", skip_until={0: 4})
    assert learn(11).trainer.num_examples == 3 + 1
    with pytest.raises(LogError, match="--skip-until must be at most the end of"):
        roll_back(job, log, "1", skip_until={0: 99})


def test_the_manifest_of_a_rollback_is_on_the_disk_before_it_has_its_name(
    job: JobConfig, log: MemoryLog, learn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(1, 2, 3)
    learn(4)
    synced: dict[int, int] = {}
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.update({os.fstat(descriptor).st_ino: os.fstat(descriptor).st_size}))
    roll_back(job, log, "1", skip_until={0: 2})
    written = (Path(job.trainer.checkpoint_dir) / names(job)[0] / "manifest.json").stat()
    assert synced.get(written.st_ino) == written.st_size


def test_a_rollback_that_cannot_be_is_refused(job: JobConfig, log: MemoryLog, learn: Callable[..., Any]) -> None:
    learn(1)
    folder = Path(job.trainer.checkpoint_dir)
    before = names(job)
    with pytest.raises(CheckpointError, match=r"--to must name a checkpoint in .*'step-000000000001'\], got '7'"):
        roll_back(job, log, "7")
    with role_lock(folder / ".trainer.lock", "trainer", CheckpointError), pytest.raises(AlreadyRunning):
        roll_back(job, log, "0")
    (Checkpoint.at(folder, 0).path / "dense.safetensors").write_bytes(b"?")
    with pytest.raises(CheckpointError, match="torn or damaged"):
        roll_back(job, log, "0")
    assert names(job) == before
