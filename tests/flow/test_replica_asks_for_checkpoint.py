"""A replica that cannot go on with the updates asks for a checkpoint, and an idle trainer writes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import MemoryLog
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.training import Checkpoint
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.loop import OnlineTraining

START_MS = 1_700_000_000_000


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    return parse_job(
        {
            "name": "asking",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item", "source": "item_id", "dim": 4}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "trainer": {"checkpoint_dir": f"{tmp_path}/checkpoints", "checkpoint_interval_s": 1e6, "linger_s": 0.0, "num_threads": 1},
        }
    )


class Idle:
    """A trainer that has learnt all there is, and a replica that follows it."""

    def __init__(self, job: JobConfig) -> None:
        self.folder, self.clock, self.log = Path(job.trainer.checkpoint_dir), ManualClock(START_MS), MemoryLog()
        create_topics(self.log, job.log)
        items = np.arange(16)
        columns = FeatureColumns(16, {"item": SparseColumn(items, np.ones(16, np.int32))})
        texts, times = tuple(map(str, items)), np.full(16, START_MS - 1000)
        labels = {"click": (items % 2).astype(np.float32)}
        batch = ExampleBatch(texts, items, times, np.zeros(16, np.uint8), np.ones(16, np.float32), labels, columns)
        self.log.append("examples", [encode_examples(batch)], time_ms=START_MS)
        self.training = OnlineTraining(job, self.log, self.clock, lambda: False)
        self.training.step()
        self.training.checkpoint()
        self.replica = Replica(job, self.log, torch.device("cpu"), self.clock)
        assert self.replica.load_newest()

    def run(self, rounds: int = 8) -> None:
        """Let both go on without examples."""
        for _ in range(rounds):
            self.clock.advance(5.0)
            self.training.step()
            publisher = self.training._publisher
            if publisher._append is not None:
                publisher._append.result()
            if self.training._saving is not None:
                self.training._saving._copied.result()
                if self.training._saving.is_frozen:
                    self.training._saving.wait()
            if self.replica._subscriber is not None:
                self.replica.apply_updates(0.0)
            elif not self.replica.load_newest():
                self.replica._ask_for_checkpoint()


@pytest.fixture
def idle(job: JobConfig) -> Iterator[Idle]:
    idle = Idle(job)
    yield idle
    idle.training._publisher.close()
    idle.replica.close()


def faults(reason: str) -> float:
    return REGISTRY.get_sample_value("monolith_replica_faults_total", {"reason": reason}) or 0.0


def trim(idle: Idle) -> None:
    for _ in range(2):
        idle.clock.advance(5.0)
        idle.training.step()
        assert idle.training._publisher._append is not None
        idle.training._publisher._append.result()
    idle.log.trim("updates", 0, idle.log.end_offset("updates"))


def damage(idle: Idle) -> None:
    idle.log.append("updates", [b"no delta"], time_ms=START_MS)


def change_a_row(idle: Idle) -> None:
    """Change a row of the replica's memory."""
    table = idle.replica.state.table
    rows = table._store._rows.read(table._places["item"], np.array([3]))
    table.assign("item", np.array([3]), np.roll(rows, 2), table.encodings["item"])


@pytest.mark.parametrize(("harm", "reason"), [(trim, "OffsetTrimmed"), (damage, "WireError"), (change_a_row, "DigestMismatch")])
def test_a_replica_heals_although_the_trainer_has_nothing_to_learn(idle: Idle, harm: Callable[[Idle], None], reason: str) -> None:
    """Updates trimmed past the newest checkpoint of an idle trainer left replicas at an old model for ever."""
    before, (old, *_) = faults(reason), Checkpoint.all_in(idle.folder)
    harm(idle)
    idle.run()
    assert faults(reason) == before + 1
    assert idle.replica._subscriber is not None
    assert idle.replica.state.next_delta == idle.training._publisher.next_delta
    (new, *_) = Checkpoint.all_in(idle.folder)
    assert new.path.name == f"{old.path.name}.0001" and not old.path.exists()
    assert new.meta.updates_offset > 0 and new.meta.step == idle.training.trainer.num_batches
    idle.run(2)
    assert Checkpoint.all_in(idle.folder)[0] == new, "one request, one checkpoint"


def test_an_idle_replica_asks_for_nothing(idle: Idle) -> None:
    idle.run()
    assert idle.log.end_offset("dense_requests") == 0
