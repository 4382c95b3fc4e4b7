"""Batch refresh: the newest whole checkpoint, under its name only once it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith_demo.driver.batch_refresh import copy_newest
from monolith_py.config import JobConfig, parse_job
from monolith_py.training import Checkpoint, CheckpointMeta, Trainer, save_checkpoint


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    return parse_job(
        {
            "name": "refresh",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "trainer": {"checkpoint_dir": str(tmp_path / "checkpoints"), "num_threads": 1},
        }
    )


def save(job: JobConfig, step: int) -> Path:
    """Write a checkpoint of an untrained model and return its folder."""
    meta = CheckpointMeta(job.name, step, 0, 1, step, 0, {0: (0, 0)}, 0, 1_000 * step)
    return save_checkpoint(Path(job.trainer.checkpoint_dir), Trainer(job), meta, keep=10).path


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the whole checkpoints in `folder`, newest first; there must be no other."""
    checkpoints = Checkpoint.all_in(folder)
    for checkpoint in checkpoints:
        checkpoint.verify()
    assert {path.name for path in folder.iterdir()} == {checkpoint.path.name for checkpoint in checkpoints}
    return [checkpoint.meta.step for checkpoint in checkpoints]


def test_a_replica_gets_each_newest_checkpoint_and_keeps_the_one_before(job: JobConfig, tmp_path: Path) -> None:
    source, target = Path(job.trainer.checkpoint_dir), tmp_path / "hourly"
    assert copy_newest(source, target) is None  # there is none
    for step, kept in ((1, [1]), (2, [2, 1]), (5, [5, 2])):
        save(job, step)
        copied = copy_newest(source, target)
        assert copied is not None and copied.meta.step == step
        assert copy_newest(source, target) is None  # there is none new
        assert steps_in(target) == kept


def test_a_damaged_checkpoint_and_a_broken_copy_are_no_hindrance(job: JobConfig, tmp_path: Path) -> None:
    source, target = Path(job.trainer.checkpoint_dir), tmp_path / "hourly"
    save(job, 1)
    (save(job, 2) / "dense.safetensors").write_bytes(b"torn")
    (target / ".copy-step-000000000001" / "tables").mkdir(parents=True)  # of a driver that was killed
    copy_newest(source, target)
    assert steps_in(target) == [1]


def test_the_copy_stays_when_the_trainer_deletes_its_own(job: JobConfig, tmp_path: Path) -> None:
    source, target = Path(job.trainer.checkpoint_dir), tmp_path / "hourly"
    path = save(job, 1)
    copy_newest(source, target)
    for file in path.rglob("*"):
        if file.is_file():
            file.unlink()
    assert steps_in(target) == [1]
