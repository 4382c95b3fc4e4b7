"""Trainers killed with SIGKILL at random moments, with every kind of admission: replicas end with the trainer's rows, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock, SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.sync import digest_tables
from monolith_py.training import Checkpoint
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.loop import OnlineTraining

START_MS, MS_PER_RECORD, ROWS = 1_700_000_000_000, 1000, 32
ADMISSIONS: dict[str, dict[str, Any]] = {
    "count": {"admit_after": 2},
    "sketch": {"admission": "sketch", "admit_after": 2, "sketch_bytes": 1024, "sketch_window_s": 100},
    "proportional": {"admission": "proportional", "admit_after": 4},
    "geometric": {"admission": "geometric", "admit_after": 3},
    "expiry and budget": {"ttl_s": 60, "budget_bytes": 40_000},
}
# Longest life of a trainer after its first publication.
LONGEST_S = 0.6


def make_job(folder: Path, kind: str) -> JobConfig:
    return parse_job(
        {
            "name": "lives",
            "log": {"url": f"sqlite:///{folder}/log"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item", "source": "item_id", "dim": 8, **ADMISSIONS[kind]}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "trainer": {
                "batch_size": ROWS,
                "checkpoint_dir": f"{folder}/checkpoints",
                "checkpoint_interval_s": 0.15,
                "evict_interval_s": 10,
                "linger_s": 0.0,
                "num_threads": 1,
            },
            "sync": {"encoding": "int8", "sparse_interval_s": 0.01, "dense_interval_s": 0.05},
        }
    )


def train_for_ever(job: JobConfig, seed: int) -> None:
    """Append examples and learn them, until killed."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(seed)
    with closing(open_log(job.log)) as log:
        training = OnlineTraining(job, log, SystemClock(), lambda: False)
        for _ in range(100_000):
            append(log, generator)
            training.step()


def append(log: Log, generator: np.random.Generator) -> None:
    number = log.end_offset("examples")
    fids = np.minimum(generator.zipf(1.3, ROWS), 500) + number // 2
    ones = np.ones(ROWS, np.int32)
    batch = ExampleBatch(
        tuple(f"{number}-{row}" for row in range(ROWS)),
        fids,
        np.full(ROWS, START_MS + MS_PER_RECORD * number),
        np.zeros(ROWS, np.uint8),
        np.ones(ROWS, np.float32),
        {"click": (generator.random(ROWS) < 0.4).astype(np.float32)},
        FeatureColumns(ROWS, {"item": SparseColumn(fids, ones)}),
    )
    log.append("examples", [encode_examples(batch)], time_ms=START_MS + MS_PER_RECORD * number)


def kill_one(job: JobConfig, log: Log, generator: np.random.Generator) -> None:
    """Start a trainer, let it publish, and kill it a moment later; at times, roll back its newest checkpoint."""
    clock, end = SystemClock(), log.end_offset("updates")
    child = multiprocessing.get_context("forkserver").Process(target=train_for_ever, args=(job, int(generator.integers(1 << 30))))
    child.start()
    try:
        while log.end_offset("updates") == end:
            assert child.is_alive(), f"the trainer ended with {child.exitcode}"
            clock.sleep(0.01)
        clock.sleep(float(generator.random()) * LONGEST_S)
        assert child.is_alive(), f"the trainer ended with {child.exitcode}"
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    checkpoints = Checkpoint.all_in(Path(job.trainer.checkpoint_dir))
    if len(checkpoints) > 1 and generator.random() < 0.2:
        shutil.rmtree(checkpoints[0].path)


def follow(replica: Replica, log: Log) -> None:
    while replica._subscriber is not None and replica._subscriber.offset < log.end_offset("updates"):
        assert replica.apply_updates(0.0)
    assert replica._subscriber is not None, "the replica had to give up"


@pytest.mark.slow
@pytest.mark.long_drill
@pytest.mark.parametrize("kind", ADMISSIONS)
def test_replicas_equal_the_trainer_after_25_kills(kind: str, tmp_path: Path) -> None:
    num_kills = int(os.environ.get("MONOLITH_DRILL_KILLS", "25"))
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["monolith_streaming.trainer.loop", "monolith_serving.replica.replica"]
    )
    job, generator = make_job(tmp_path, kind), np.random.default_rng(len(kind))
    with closing(open_log(job.log)) as log:
        create_topics(log, job.log)
        replicas: list[Replica] = []
        for number in range(num_kills):
            kill_one(job, log, generator)
            if number % 5 == 0:
                replicas.append(Replica(job, log, torch.device("cpu"), ManualClock(START_MS)))
                assert replicas[-1].load_newest()
            for replica in replicas:
                follow(replica, log)
        training = OnlineTraining(job, log, SystemClock(), lambda: False)
        training.run(stop_at_end=True)
        table = training.trainer.bags.tables["item"]
        expected = digest_tables({"item": table.drain_encoded("check").digest})
        assert len(table) > 20
        assert training.trainer.num_examples == ROWS * log.end_offset("examples")
        for replica in replicas:
            follow(replica, log)
            assert replica.state.table.digest == expected
            assert replica.state.next_delta[0] == num_kills + 1
            assert replica.state.table.num_rows == len(table)
            for name, value in training.trainer.export_dense().items():
                np.testing.assert_array_equal(replica.state.dense.tensors[name], value.numpy(), name)
            replica.close()
