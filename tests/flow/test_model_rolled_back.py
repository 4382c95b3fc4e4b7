"""Rolling back as in the operators' guide: a good checkpoint replaces a bad model, and training continues from it."""

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


def margin(job: JobConfig, log: Log) -> tuple[float, str]:
    """Return the preference of a new replica for the liked item, and the version of its model."""
    replica = Replica(job, log if job.serving.follow_updates else None, torch.device("cpu"), ManualClock(0))
    assert replica.load_newest()
    end = log.end_offset(Topics.of(job.log).updates)
    while replica._subscriber is not None and replica._subscriber.offset < end:
        assert replica.apply_updates(0.0)
    items = FeatureColumns(2, {"item_id": SparseColumn(np.array([LIKED, IGNORED]), np.ones(2, np.int32))})
    liked, ignored = replica.state.predict(make_batch(items, Schema.of(job)))[:, 0].tolist()
    replica.close()
    return liked - ignored, replica.state.version


@pytest.mark.parametrize("wait_for_a_new_checkpoint", [True, False])
def test_a_good_checkpoint_serves_at_once_and_training_goes_on_from_it(
    tmp_path: Path, make_log: Callable[..., Log], work_factor: int, wait_for_a_new_checkpoint: bool
) -> None:
    job = make_job(tmp_path)
    log = make_log(job.log.url)
    create_topics(log, job.log)
    append_examples(log, job, LIKED, range(20 * work_factor))
    good = train(job)
    append_examples(log, job, IGNORED, range(20 * work_factor, 60 * work_factor))  # an app that sends the wrong item ids
    bad = train(job)
    assert margin(job, log)[0] < -0.3

    # 1 and 2. The trainer is stopped; the bad checkpoint is moved away.
    shutil.move(bad, tmp_path / bad.name)
    # 3. Frozen replicas serve the good one; one that followed would apply the bad updates again.
    frozen = make_job(tmp_path, follow_updates=False)
    assert margin(frozen, log)[0] > 0.3
    assert margin(job, log)[0] < -0.3

    # 4. The trainer goes on from the good checkpoint.
    append_examples(log, job, LIKED, range(60 * work_factor, 120 * work_factor))
    new = train(job)
    assert Checkpoint(new).meta.generation == 3
    assert Checkpoint(new).meta.examples_trained == Checkpoint(good).meta.examples_trained + 100 * work_factor * 64

    # 5. Replicas follow again, from the new checkpoint or, too early, from the good one.
    if not wait_for_a_new_checkpoint:
        shutil.move(new, tmp_path / new.name)
    preference, version = margin(job, log)
    assert preference > 0.3
    assert version.startswith("3.")
