"""Flow (b) in one process: a trainer stepped by hand, its publisher, and replicas that follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.model.batch import Batch, make_batch
from monolith_py.sync import Generation, Parent, PublishedModel, Publisher, next_generation
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.replica.replica import Replica

START_MS = 1_700_000_000_000
CPU = torch.device("cpu")


# Features of a job whose encoding is "mixed": encodings, dims and poolings of their own; items have the encoding of the job, int8. With
# "sequences" all have dim 8.
MIXED = [
    {"name": "user_id", "source": "user_id", "dim": 8, "ttl_s": 100, "encoding": "int4"},
    {"name": "item_id", "source": "item_id", "dim": 8},
    {"name": "tags", "source": "item", "dim": 4, "pooling": "mean", "encoding": "fp32"},
    {"name": "history", "source": "user", "dim": 8, "pooling": "first", "length": 2, "encoding": "fp16"},
    {"name": "liked", "source": "user", "dim": 4, "pooling": "sum", "encoding": "fp16"},
]
# Dims of the same features with "odd".
ODD_DIMS = {"user_id": 7, "tags": 1, "history": 3, "liked": 5}


def make_job(folder: Path, encoding: str = "fp32", model: dict[str, object] | None = None, **serving: object) -> JobConfig:
    return parse_job(
        {
            "name": "flow",
            "log": {"url": f"sqlite:///{folder}/log"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": "user_id", "source": "user_id", "dim": 8, "ttl_s": 100},
                {"name": "item_id", "source": "item_id", "dim": 8},
                {"name": "tags", "source": "item", "dim": 8, "pooling": "mean"},
            ]
            if encoding not in ("mixed", "sequences", "odd")
            else [_with_dim(feature, encoding) for feature in MIXED],
            "dense_features": [{"name": "age", "source": "user"}],
            "tasks": [{"name": "click", "action": "click"}, {"name": "like", "action": "like"}],
            "model": {"tower": [16], "precision": "fp32", **(model or {})},
            "optimizer": {"sparse": {"lr": 0.1}, "dense": {"reference_batch": 64}},
            "trainer": {"checkpoint_dir": f"{folder}/checkpoints", "batch_size": 64},
            "sync": {"encoding": "int8" if encoding in ("mixed", "sequences", "odd") else encoding, "rows_per_delta": 64},
            "serving": {"freshness_log": f"{folder}/freshness", **serving},
        }
    )


def _with_dim(feature: dict[str, Any], encoding: str) -> dict[str, Any]:
    dims = {"sequences": 8, "odd": ODD_DIMS.get(feature["name"], feature["dim"])}
    return {**feature, "dim": dims.get(encoding, feature["dim"])}


def random_examples(schema: Schema, seed: int, now_s: int = 1, num_rows: int = 64) -> ExampleBatch:
    generator = np.random.default_rng(seed)
    sparse = {}
    for name in ("user_id", "item_id"):
        sparse[name] = SparseColumn(generator.integers(0, 300, num_rows), np.ones(num_rows, np.int32))
    lengths = generator.integers(0, 4, num_rows).astype(np.int32)
    sparse["tags"] = SparseColumn(generator.integers(-50, 50, lengths.sum()), lengths)
    for name in schema.sparse_names[3:]:
        lengths = generator.integers(0, 5, num_rows).astype(np.int32)
        sparse[name] = SparseColumn(generator.integers(0, 100, lengths.sum()), lengths)
    dense = {"age": generator.normal(size=(num_rows, 1)).astype(np.float32)}
    return ExampleBatch(
        tuple(f"{seed}-{row}" for row in range(num_rows)),
        np.arange(num_rows),
        np.full(num_rows, 1000 * now_s),
        np.zeros(num_rows, np.uint8),
        np.ones(num_rows, np.float32),
        {task: (generator.random(num_rows) < 0.3).astype(np.float32) for task in schema.tasks},
        FeatureColumns(num_rows, sparse, dense),
    )


class MiniTrainer:
    """The trainer and its publisher, stepped by hand."""

    def __init__(self, job: JobConfig, log: Log, clock: ManualClock) -> None:
        self.job, self.log, self.clock = job, log, clock
        self.topic = Topics.of(job.log).updates
        self.trainer = Trainer(job)
        self.schema, self.bags = self.trainer.schema, self.trainer.bags
        self.publisher = self.new_publisher(next_generation(log, self.topic, 0))

    def new_publisher(self, generation: int, parent: Parent | None = None) -> Publisher:
        model = PublishedModel(self.bags.tables, self.trainer.export_dense, self.trainer.layout.identity(""))
        return Publisher(
            self.log, Topics.of(self.job.log), model, self.job.sync, self.clock, generation=Generation(generation, "mini", parent)
        )

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.trainer.step(random_examples(self.schema, self.trainer.num_batches + 1))
            self.publisher.note_step(self.bags.rows_touched)

    def publish(self) -> None:
        self.publisher.flush(self.clock.now_ms())

    def checkpoint(self) -> Path:
        end = self.publisher.flush(0)
        generation, next_seq = self.publisher.next_delta
        meta = CheckpointMeta(
            job=self.job.name,
            step=self.trainer.num_batches,
            examples_trained=self.trainer.num_examples,
            generation=generation,
            next_seq=next_seq,
            updates_offset=end,
            offsets={},
            watermark_ms=0,
            saved_ms=self.clock.now_ms(),
        )
        return save_checkpoint(Path(self.job.trainer.checkpoint_dir), self.trainer, meta, keep=2).path

    def batch(self, seed: int) -> Batch:
        return make_batch(random_examples(self.schema, seed).features, self.schema)

    def lead(self, replica: Replica) -> None:
        """Let the replica follow until it has read all updates, or gives up."""
        while replica._subscriber is not None and replica._subscriber.offset < self.log.end_offset(self.topic):
            assert replica.apply_updates(0.0)

    def assert_parity(self, replica: Replica, tolerance: float = 1e-5) -> None:
        for seed in (1, 777):
            batch = self.batch(seed)
            np.testing.assert_allclose(replica.state.predict(batch), self.probabilities(batch), rtol=0, atol=tolerance)

    def probabilities(self, batch: Batch) -> np.ndarray:
        self.bags.eval()
        self.trainer.model.eval()
        with torch.no_grad():
            logits = self.trainer.model(self.bags(batch.sparse()).values(), torch.from_numpy(batch.dense))
        self.bags.train()
        return torch.sigmoid(logits).numpy()


class RefusingLog:
    """A log that is read as ever and takes nothing."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def append(self, topic: str, values: list[bytes], *, time_ms: int, partition: int = 0) -> int:
        raise LogError("refused as planned")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_MS)


@pytest.fixture
def make_trainer(tmp_path, make_log, clock):
    made = []

    def make(encoding: str = "fp32", model: dict[str, object] | None = None, **serving: object) -> MiniTrainer:
        job = make_job(tmp_path, encoding, model, **serving)
        log = make_log(job.log.url)
        create_topics(log, job.log)
        made.append(MiniTrainer(job, log, clock))
        return made[-1]

    yield make
    for trainer in made:
        trainer.publisher.close()


@pytest.fixture
def make_replica(make_log, clock):
    made = []

    def make(trainer: MiniTrainer, *, follow: bool = True, refuses: bool = False) -> Replica:
        log = make_log(trainer.job.log.url) if follow else None
        made.append(Replica(trainer.job, RefusingLog(log) if refuses else log, CPU, clock))
        assert made[-1].load_newest()
        return made[-1]

    yield make
    for replica in made:
        replica.close()
