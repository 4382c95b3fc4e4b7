"""Trainers that die at any moment: whoever follows their updates ends with the rows and parameters of the last one, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import MemoryLog
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.sync import RowEncoding, digest_tables, pack_rows, row_bytes
from monolith_py.training import Checkpoint
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.loop import OnlineTraining

START_MS = 1_700_000_000_000
ROWS = 24  # of a batch, and of a record
FIDS = np.arange(60)
ADMISSIONS: dict[str, dict[str, Any]] = {
    "count": {"admit_after": 2},
    "sketch": {"admission": "sketch", "admit_after": 2, "sketch_bytes": 256, "sketch_window_s": 40},
    "proportional": {"admission": "proportional", "admit_after": 4},
    "geometric": {"admission": "geometric", "admit_after": 3},
    "none": {},
    "ttl": {"ttl_s": 12},
    "budget": {"budget_bytes": 8_000},
}


class Lives:
    """A job whose trainer is started, stepped and lost again and again over one log."""

    def __init__(self, job: JobConfig, seed: int) -> None:
        self.job, self.generator = job, np.random.default_rng(seed)
        self.log, self.clock = MemoryLog(), ManualClock(START_MS)
        create_topics(self.log, job.log)
        self.folder = Path(job.trainer.checkpoint_dir)
        self.num_records = 0
        self.training = self.start()

    def start(self) -> OnlineTraining:
        return OnlineTraining(self.job, self.log, self.clock, lambda: False)

    def append(self, num_records: int) -> None:
        for _ in range(num_records):
            generator, number = self.generator, self.num_records
            fids = FIDS[np.minimum(generator.zipf(1.4, ROWS), len(FIDS)) - 1] + number // 4
            batch = ExampleBatch(
                tuple(f"{number}-{row}" for row in range(ROWS)),
                fids,
                np.full(ROWS, START_MS - 10_000_000 + 1000 * number),
                np.zeros(ROWS, np.uint8),
                np.ones(ROWS, np.float32),
                {"click": (generator.random(ROWS) < 0.4).astype(np.float32)},
                FeatureColumns(ROWS, {"item": SparseColumn(fids, np.ones(ROWS, np.int32))}, {"age": np.ones((ROWS, 2), np.float32)}),
            )
            self.log.append("examples", [encode_examples(batch)], time_ms=START_MS + number)
            self.num_records += 1

    def live(self, num_steps: int) -> None:
        """Learn up to `num_steps` records, publish after each, write a checkpoint now and then."""
        self.append(num_steps)
        for _ in range(num_steps):
            self.training.step()
            self.publish()
            if self.generator.random() < 0.1:
                self.training.checkpoint()

    def publish(self) -> None:
        """Publish and wait for the log, as time does between two steps."""
        self.clock.advance(1.0)
        self.training._publisher.maybe_publish(self.training.trainer.watermark_ms)
        if self.training._publisher._append is not None:
            self.training._publisher._append.exception()

    def lose(self) -> None:
        """Lose the trainer, and at times its examples' order, or its newest checkpoint: a rollback."""
        self.training._publisher._worker.shutdown()
        checkpoints = Checkpoint.all_in(self.folder)
        if len(checkpoints) > 1 and self.generator.random() < 0.3:
            shutil.rmtree(checkpoints[0].path)
        # The next life meets other batches, so that it admits and evicts other fids.
        records = self.log.records["examples"][0]
        order = np.argsort(self.generator.random(len(records)))
        values = [records[place].value for place in order]
        records[:] = [record._replace(value=value) for record, value in zip(records, values, strict=True)]
        self.training = self.start()

    def replica(self) -> Replica:
        replica = Replica(self.job, self.log, torch.device("cpu"), self.clock)
        assert replica.load_newest()
        return replica

    def assert_same(self, replica: Replica) -> None:
        """Assert that a replica which follows has rows and dense parameters of the trainer."""
        while replica._subscriber is not None and replica._subscriber.offset < self.log.end_offset("updates"):
            assert replica.apply_updates(0.0)
        assert replica._subscriber is not None, "the replica had to give up"
        encoding = RowEncoding(self.job.sync.encoding)
        state = replica.state
        for place, (name, table) in enumerate(self.training.trainer.bags.tables.items()):
            fids, weights = table.export_rows()
            expected = np.zeros((1000, row_bytes(table.dim, encoding)), np.uint8)
            expected[fids] = pack_rows(weights, encoding)
            assert np.array_equal(state.table._store._rows.read(place, np.arange(1000)), expected)
            assert state.table.num_rows == len(fids)
            assert state.table.digest == digest_tables({name: table.drain_encoded("check").digest})
        for key, value in self.training.trainer.export_dense().items():
            np.testing.assert_array_equal(state.dense.tensors[key], value.numpy(), key)


@pytest.mark.parametrize("kind", ADMISSIONS)
def test_a_replica_equals_the_trainer_after_any_lost_lives(kind: str, make_job: Callable[..., JobConfig], work_factor: int) -> None:
    settings = make_job(features=ADMISSIONS[kind], batch_size=ROWS, checkpoint_interval_s=1e6, evict_interval_s=5)
    encoding = {"count": "int8", "budget": "fp32"}.get(kind, "fp16")
    job = settings.model_copy(update={"sync": settings.sync.model_copy(update={"encoding": encoding, "dense_interval_s": 2.0})})
    lives = Lives(job, seed=list(ADMISSIONS).index(kind))
    followers = [lives.replica()]
    for number in range(4 * work_factor):
        lives.live(int(lives.generator.integers(1, 12)))
        lives.lose()
        if number % 3 == 0:
            followers.append(lives.replica())
    lives.live(2)
    lives.training._publisher.flush(lives.training.trainer.watermark_ms)
    for replica in [*followers, lives.replica()]:
        lives.assert_same(replica)
        replica.close()
