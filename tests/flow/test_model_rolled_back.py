"""Rolling back as in the operators' guide: a good checkpoint replaces a bad model in replicas that run, and training continues from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.io import Log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.model.batch import make_batch
from monolith_py.training import Checkpoint
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.process import run_trainer

LIKED, IGNORED = 11, 12


def make_job(folder: Path, *, follow_updates: bool = True) -> JobConfig:
    return parse_job(
        {
            "name": "rollback",
            "log": {"url": f"sqlite:///{folder}/log"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "optimizer": {"sparse": {"kind": "sgd", "lr": 0.05}, "dense": {"lr": 0.01}},
            # One checkpoint for each run: its last.
            "trainer": {"batch_size": 64, "checkpoint_dir": f"{folder}/checkpoints", "checkpoint_interval_s": 1e6, "num_threads": 1},
            "serving": {"follow_updates": follow_updates},
        }
    )


def append_examples(log: Log, job: JobConfig, clicked: int, records: range) -> None:
    """Append records of examples: one of the two items is always clicked, the other never."""
    for record in records:
        items = np.tile(np.array([LIKED, IGNORED]), 32)
        batch = ExampleBatch(
            tuple(f"{record}-{row}" for row in range(64)),
            items,
            np.full(64, 1_700_000_000_000 + record),
            np.zeros(64, np.uint8),
            np.ones(64, np.float32),
            {"click": (items == clicked).astype(np.float32)},
            FeatureColumns(64, {"item_id": SparseColumn(items, np.ones(64, np.int32))}),
        )
        log.append(Topics.of(job.log).examples, [encode_examples(batch)], time_ms=1_700_000_000_000 + record)


def train(job: JobConfig) -> Path:
    """Learn all records of the log and return the last checkpoint."""
    run_trainer(job, stop_at_end=True)
    checkpoint = Checkpoint.newest(Path(job.trainer.checkpoint_dir))
    assert checkpoint is not None
    return checkpoint.path


def lead(replica: Replica, job: JobConfig, log: Log) -> tuple[float, str]:
    """Let a replica follow all updates; return its preference for the liked item, and the version of its model."""
    end = log.end_offset(Topics.of(job.log).updates)
    while replica._subscriber is not None and replica._subscriber.offset < end:
        assert replica.apply_updates(0.0)
    items = FeatureColumns(2, {"item_id": SparseColumn(np.array([LIKED, IGNORED]), np.ones(2, np.int32))})
    liked, ignored = replica.state.predict(make_batch(items, Schema.of(job)))[:, 0].tolist()
    return liked - ignored, replica.state.version


def margin(job: JobConfig, log: Log) -> tuple[float, str]:
    """Return the same of a new replica."""
    replica = Replica(job, log if job.serving.follow_updates else None, torch.device("cpu"), ManualClock(0))
    assert replica.load_newest()
    found = lead(replica, job, log)
    replica.close()
    return found


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_replicas_follow_a_rollback_as_soon_as_the_trainer_has_started(
    tmp_path: Path, make_log: Callable[..., Log], work_factor: int, is_trimmed: bool
) -> None:
    job = make_job(tmp_path)
    log = make_log(job.log.url)
    create_topics(log, job.log)
    append_examples(log, job, LIKED, range(20 * work_factor))
    good = Checkpoint(train(job))
    running = Replica(job, log, torch.device("cpu"), ManualClock(0))
    assert running.load_newest()
    bad_records = range(20 * work_factor, 60 * work_factor)
    append_examples(log, job, IGNORED, bad_records)  # an app that sends the wrong item ids
    bad = train(job)
    assert lead(running, job, log)[0] < -0.3

    # The trainer is stopped; the bad checkpoint is moved away. Frozen replicas serve the good one.
    shutil.move(bad, tmp_path / bad.name)
    assert margin(make_job(tmp_path, follow_updates=False), log)[0] > 0.3
    assert margin(job, log)[0] < -0.3, "the bad updates are still in the log"
    if is_trimmed:
        log.trim(Topics.of(job.log).updates, 0, good.meta.updates_offset + 1)

    # The trainer starts, before it has learnt anything.
    clock = ManualClock(1_700_000_100_000)
    training = OnlineTraining(job, log, clock, lambda: False)
    training._publisher.maybe_publish(training.trainer.watermark_ms)
    assert training._publisher._append is not None
    training._publisher._append.result()
    if is_trimmed:
        lead(running, job, log)
        assert running._subscriber is None and not running.load_newest()
        training.checkpoint()
        assert running.load_newest()
    preference, version = lead(running, job, log)
    assert preference > 0.3 and version.startswith("3.")
    assert margin(job, log)[0] > 0.3
    assert training.trainer.num_examples == good.meta.examples_trained
    training._publisher.close()
    running.close()


def test_training_goes_on_from_the_good_checkpoint(tmp_path: Path, make_log: Callable[..., Log], work_factor: int) -> None:
    job = make_job(tmp_path)
    log = make_log(job.log.url)
    create_topics(log, job.log)
    append_examples(log, job, LIKED, range(20 * work_factor))
    good = Checkpoint(train(job))
    append_examples(log, job, IGNORED, range(20 * work_factor, 60 * work_factor))
    bad = train(job)
    shutil.move(bad, tmp_path / bad.name)
    append_examples(log, job, LIKED, range(60 * work_factor, 120 * work_factor))
    new = Checkpoint(train(job))
    assert new.meta.generation == 3
    assert new.meta.examples_trained == good.meta.examples_trained + 100 * work_factor * 64
    preference, version = margin(job, log)
    assert preference > 0.3 and version.startswith("3.")
