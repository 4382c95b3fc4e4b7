"""Flow (b): a row that training touched reaches a replica over the log, and whatever goes wrong on the way is noticed and healed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from monolith_py.batch import Batch, make_batch
from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.example import ExampleBatch, FeatureColumns, SparseColumn
from monolith_py.features import Schema
from monolith_py.io.log import Log
from monolith_py.io.topics import Topics, create_topics
from monolith_py.sync import Delta, Publisher, encode_delta, next_generation
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from serving.replica import Replica

START_MS = 1_700_000_000_000
CPU = torch.device("cpu")


def make_job(folder: Path, encoding: str = "fp32", **serving: object) -> JobConfig:
    return parse_job(
        {
            "name": "flow",
            "log": {"url": f"sqlite:///{folder}/log"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": "user_id", "source": "user_id", "dim": 8, "ttl_s": 100},
                {"name": "item_id", "source": "item_id", "dim": 8},
                {"name": "tags", "source": "item", "dim": 8, "pooling": "mean"},
            ],
            "dense_features": [{"name": "age", "source": "user"}],
            "tasks": [{"name": "click", "action": "click"}, {"name": "like", "action": "like"}],
            "model": {"tower": [16], "precision": "fp32"},
            "optimizer": {"sparse": {"lr": 0.1}},
            "trainer": {"checkpoint_dir": f"{folder}/checkpoints"},
            "sync": {"encoding": encoding, "rows_per_delta": 64},
            "serving": {"freshness_log": f"{folder}/freshness", **serving},
        }
    )


def random_examples(schema: Schema, seed: int, now_s: int = 1, num_rows: int = 64) -> ExampleBatch:
    generator = np.random.default_rng(seed)
    sparse = {}
    for name in ("user_id", "item_id"):
        sparse[name] = SparseColumn(generator.integers(0, 300, num_rows), np.ones(num_rows, np.int32))
    lengths = generator.integers(0, 4, num_rows).astype(np.int32)
    sparse["tags"] = SparseColumn(generator.integers(-50, 50, lengths.sum()), lengths)
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


def random_batch(schema: Schema, seed: int) -> Batch:
    return make_batch(random_examples(schema, seed).features, schema)


class MiniTrainer:
    """The trainer and its publisher, stepped by hand."""

    def __init__(self, job: JobConfig, log: Log, clock: ManualClock) -> None:
        self.job, self.log, self.clock = job, log, clock
        self.topic = Topics.of(job.log).updates
        self.trainer = Trainer(job)
        self.schema, self.bags = self.trainer.schema, self.trainer.bags
        self.publisher = self.new_publisher(next_generation(log, self.topic, 0))

    def new_publisher(self, generation: int) -> Publisher:
        towers = self.trainer.export_towers
        return Publisher(self.log, self.topic, self.bags.tables, towers, self.job.sync, self.clock, generation=generation)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.trainer.step(random_examples(self.schema, self.trainer.num_batches + 1))
            self.publisher.note_step(self.bags.rows_touched)

    def publish(self) -> None:
        self.publisher.flush(self.clock.now_ms())

    def checkpoint(self) -> Path:
        end = self.publisher.flush(0)
        generation, next_seq = self.publisher.position
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
        return save_checkpoint(Path(self.job.trainer.checkpoint_dir), self.trainer, meta, keep=2)

    def probabilities(self, batch: Batch) -> np.ndarray:
        self.bags.eval()
        self.trainer.model.eval()
        with torch.no_grad():
            logits = self.trainer.model(self.bags(batch.sparse()).values(), torch.from_numpy(batch.dense))
        self.bags.train()
        return torch.sigmoid(logits).numpy()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_MS)


@pytest.fixture
def make_trainer(tmp_path, make_log, clock):
    made = []

    def make(encoding: str = "fp32") -> MiniTrainer:
        job = make_job(tmp_path, encoding)
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

    def make(trainer: MiniTrainer, *, follow: bool = True) -> Replica:
        made.append(Replica(trainer.job, make_log(trainer.job.log.url) if follow else None, CPU, clock))
        assert made[-1].load_newest()
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def catch_up(replica: Replica, trainer: MiniTrainer) -> None:
    while replica._subscriber is not None and replica._subscriber.offset < trainer.log.end_offset(trainer.topic):
        assert replica.apply_updates(0.0)


def assert_parity(trainer: MiniTrainer, replica: Replica, tolerance: float = 1e-5) -> None:
    for seed in (1, 777):
        batch = random_batch(trainer.schema, seed)
        np.testing.assert_allclose(replica.state.predict(batch), trainer.probabilities(batch), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("encoding", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", 1e-2)])
def test_replica_and_trainer_predict_the_same(make_trainer, make_replica, encoding, tolerance):
    trainer = make_trainer(encoding)
    trainer.step(5)
    trainer.checkpoint()
    replica = make_replica(trainer)
    assert_parity(trainer, replica, tolerance)
    trainer.step(20)
    trainer.publish()
    catch_up(replica, trainer)
    assert_parity(trainer, replica, tolerance)


def test_a_replica_that_starts_late_ends_like_one_that_was_there_all_the_time(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.checkpoint()
    early = make_replica(trainer)
    for _ in range(3):
        trainer.step(4)
        trainer.publish()
        catch_up(early, trainer)
    late = make_replica(trainer)
    catch_up(late, trainer)
    batch = random_batch(trainer.schema, 5)
    np.testing.assert_array_equal(late.state.predict(batch), early.state.predict(batch))
    assert late.state.version == early.state.version == f"1.{trainer.publisher.position[1]}"


def test_an_evicted_row_reads_zeros_in_the_replica(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.step(3)
    trainer.checkpoint()
    replica = make_replica(trainer)
    rows_before = replica.state.table.num_rows
    evicted = trainer.bags.evict(now_s=1000)
    assert len(evicted["user_id"]) == len(np.unique(np.concatenate([random_batch(trainer.schema, n).fids[:64] for n in (1, 2, 3)])))
    trainer.publish()
    catch_up(replica, trainer)
    assert replica.state.table.num_rows == rows_before - len(evicted["user_id"])
    assert not replica.state.table.lookup(random_batch(trainer.schema, 1))[:, :8].any()
    assert_parity(trainer, replica)


def test_a_restarted_trainer_takes_the_replicas_along(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.checkpoint()
    replica = make_replica(trainer)
    trainer.step()
    trainer.publish()
    trainer.publisher.close()
    trainer.publisher = trainer.new_publisher(next_generation(trainer.log, trainer.topic, 1))
    trainer.step()
    trainer.publish()
    catch_up(replica, trainer)
    assert replica.state.position == trainer.publisher.position and replica.state.position[0] == 2
    assert_parity(trainer, replica)


def damage_gap(trainer: MiniTrainer) -> None:
    generation, seq = trainer.publisher.position
    trainer.log.append(trainer.topic, [encode_delta(Delta(generation, seq + 7, 0, START_MS))], time_ms=START_MS)


def damage_record(trainer: MiniTrainer) -> None:
    trainer.log.append(trainer.topic, [b"\xff\xff\xff"], time_ms=START_MS)


def damage_unknown_table(trainer: MiniTrainer) -> None:
    delta = Delta(*trainer.publisher.position, 0, START_MS, table="nobody", dim=8, rows=np.empty((0, 32), np.uint8))
    trainer.log.append(trainer.topic, [encode_delta(delta)], time_ms=START_MS)


def damage_towers(trainer: MiniTrainer) -> None:
    delta = Delta(*trainer.publisher.position, 0, START_MS, towers=b"no safetensors")
    trainer.log.append(trainer.topic, [encode_delta(delta)], time_ms=START_MS)


def damage_trim(trainer: MiniTrainer) -> None:
    trainer.publish()
    trainer.log.trim(trainer.topic, 0, trainer.log.end_offset(trainer.topic))
    trainer.publish()


@pytest.mark.parametrize("damage", [damage_gap, damage_record, damage_unknown_table, damage_towers, damage_trim])
def test_updates_that_cannot_be_followed_are_healed_by_the_next_checkpoint(
    make_trainer, make_replica, clock, damage: Callable[[MiniTrainer], None]
):
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    batch = random_batch(trainer.schema, 9)
    before = replica.state.predict(batch)
    damage(trainer)
    catch_up(replica, trainer)
    np.testing.assert_array_equal(replica.state.predict(batch), before)
    assert not replica.load_newest(), "the same checkpoint would lead into the same hole"
    clock.advance(1.0)
    trainer.step(3)
    trainer.checkpoint()
    assert replica.load_newest()
    trainer.step()
    trainer.publish()
    catch_up(replica, trainer)
    assert_parity(trainer, replica)


def test_a_frozen_replica_stays_at_its_checkpoint(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer, follow=False)
    batch = random_batch(trainer.schema, 9)
    before = replica.state.predict(batch)
    trainer.step(5)
    trainer.checkpoint()
    replica.follow(threading.Event())  # returns at once: there is nothing to follow
    np.testing.assert_array_equal(replica.state.predict(batch), before)


def test_freshness_is_the_age_of_a_step_when_its_rows_are_servable(make_trainer, make_replica, clock, tmp_path):
    trainer = make_trainer()
    trainer.step()
    trainer.checkpoint()
    clock.advance(1.0)
    replica = make_replica(trainer)
    trainer.step()
    first_rows = trainer.bags.rows_touched
    clock.advance(0.25)
    trainer.step()
    clock.advance(0.5)
    trainer.publish()
    clock.advance(0.125)
    catch_up(replica, trainer)
    lines = [line.split() for line in (tmp_path / "freshness").read_text().splitlines()]
    assert [(int(time_ms), float(age_s), int(rows)) for time_ms, age_s, rows in lines] == [
        (clock.now_ms(), 0.875, first_rows),
        (clock.now_ms(), 0.625, trainer.bags.rows_touched),
    ]
    assert replica.staleness_ms() == 125


def test_updates_that_a_replica_catches_up_with_are_not_counted_as_late(make_trainer, make_replica, clock, tmp_path):
    trainer = make_trainer()
    trainer.checkpoint()
    trainer.step()
    trainer.publish()
    clock.advance(60.0)
    replica = make_replica(trainer)
    catch_up(replica, trainer)
    assert (tmp_path / "freshness").read_text() == ""
