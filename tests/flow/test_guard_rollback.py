"""A hold ends with a rollback: the replica goes on from the last good version, without a checkpoint and without the held updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
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
from monolith_py.sync.verdicts import newest_verdict
from monolith_py.training import Checkpoint
from monolith_serving.guard.guard import Guard
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.process import run_trainer
from monolith_streaming.trainer.versions import roll_back

START_MS = 1_700_000_000_000
LIKED, IGNORED = 11, 12


def make_job(folder: Path) -> JobConfig:
    return parse_job(
        {
            "name": "held",
            "log": {"url": f"sqlite:///{folder}/log"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "optimizer": {"sparse": {"kind": "sgd", "lr": 0.05}, "dense": {"lr": 0.01}},
            "trainer": {"batch_size": 64, "checkpoint_dir": f"{folder}/checkpoints", "checkpoint_interval_s": 1e6, "num_threads": 1},
            "serving": {"guarded": True},
            "guard": {"examples": 1024, "window_s": 1e6},
        }
    )


def append_examples(log: Log, job: JobConfig, clicked: int, records: range) -> None:
    """Append records of 64 examples: one of the two items is always clicked, the other never."""
    items = np.tile(np.array([LIKED, IGNORED]), 32)
    features = FeatureColumns(64, {"item_id": SparseColumn(items, np.ones(64, np.int32))})
    labels = {"click": (items == clicked).astype(np.float32)}
    for record in records:
        ids, times_ms = tuple(f"{record}-{row}" for row in range(64)), np.full(64, START_MS + record)
        batch = ExampleBatch(ids, items, times_ms, np.zeros(64, np.uint8), np.ones(64, np.float32), labels, features)
        log.append(Topics.of(job.log).examples, [encode_examples(batch)], time_ms=START_MS + record)


def test_a_replica_goes_from_the_last_good_version_to_the_rolled_back_one(tmp_path: Path, make_log: Callable[..., Log]) -> None:
    job, log, clock = make_job(tmp_path), make_log(), ManualClock(START_MS)
    create_topics(log, job.log)
    replica, guard = (Replica(job, make_log(), torch.device("cpu"), clock), Guard(job, make_log(), torch.device("cpu"), clock))
    preferences: list[float] = []

    def train_and_follow() -> None:
        run_trainer(job, stop_at_end=True)
        for one in (guard.replica, replica):
            for _ in range(8):
                if one._subscriber is None:
                    one.load_newest()
                else:
                    one.apply_updates(0.0)
        items = FeatureColumns(2, {"item_id": SparseColumn(np.array([LIKED, IGNORED]), np.ones(2, np.int32))})
        liked, ignored = replica.state.predict(make_batch(items, Schema.of(job)))[:, 0].tolist()
        preferences.append(liked - ignored)

    append_examples(log, job, LIKED, range(30))
    train_and_follow()
    append_examples(log, job, LIKED, range(30, 34))
    train_and_follow()
    good, version = Checkpoint.newest(Path(job.trainer.checkpoint_dir)), replica.state.version
    assert good is not None
    append_examples(log, job, IGNORED, range(34, 60))
    train_and_follow()
    assert preferences[2] == preferences[1] > 0.1 and replica.state.version == version
    held = newest_verdict(log, "verdicts")
    assert held is not None and held.held
    roll_back(job, log, good.path.name, skip_until={0: log.end_offset("examples")})
    append_examples(log, job, LIKED, range(60, 64))
    train_and_follow()
    after = newest_verdict(log, "verdicts")
    assert after is not None and not after.held and after.refused
    assert preferences[3] > preferences[1]
    assert replica.state.version == guard.replica.state.version
    for one in (replica, guard.replica):
        one.close()
