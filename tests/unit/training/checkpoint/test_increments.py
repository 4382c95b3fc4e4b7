"""Checkpoints of changes: each restores alone to the last bit, writes little, and a failed one is followed by a whole one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError, ConfigError
from monolith_py.sync.digest import digest_tables
from monolith_py.table import EmbeddingTable
from monolith_py.training import (
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    CheckpointStore,
    IncrementChain,
    Retention,
    Trainer,
    inspect_checkpoint,
    restore_checkpoint,
)
from monolith_serving.replica.checkpoint_loader import CheckpointLoader
from monolith_serving.replica.device import Cpu

Make = Callable[..., JobConfig]
Examples = Callable[..., ExampleBatch]


def meta_of(trainer: Trainer) -> CheckpointMeta:
    return CheckpointMeta("training", trainer.num_batches, trainer.num_examples, 2, 17, 23, {0: (5, 3)}, trainer.watermark_ms, 1)


def save(directory: Path, trainer: Trainer, chain: IncrementChain, keep: int = 99) -> Checkpoint:
    saving = CheckpointSaving(CheckpointStore(directory), trainer, Retention(keep), chain)
    saving.freeze(meta_of(trainer))
    return saving.wait()


def content_of(trainer: Trainer) -> dict[str, list[object]]:
    rows = {name: table.read(table.fids()) for name, table in trainer.bags.tables.items()}
    parts = {name: [one.fids, one.weights, one.state, one.counts, one.seen_s] for name, one in rows.items()}
    return {name: [part.tolist() for part in own] for name, own in parts.items()}


def num_parts(checkpoint: Checkpoint) -> int:
    return len(checkpoint.table_parts("user_id"))


def written_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of the files that this checkpoint alone has."""
    return sum(file.stat().st_size for file in checkpoint.files() if file.stat().st_nlink == 1)


FEATURES = [
    {"name": "user_id", "source": "user_id", "dim": 8, "ttl_s": 240, "admit_after": 2},
    {"name": "tags", "source": "item", "dim": 8, "pooling": "mean"},
]


def test_each_checkpoint_of_a_chain_restores_to_the_last_bit_without_the_others(
    make_job: Make, make_examples: Examples, tmp_path: Path
) -> None:
    job = make_job(features=FEATURES, trainer={"checkpoint_dir": "unused", "evict_interval_s": 60.0, "num_threads": 1})
    trainer, chain = Trainer(job), IncrementChain(4)
    expected = []
    for round_ in range(6):
        for seed in range(3):
            trainer.step(make_examples(10 * round_ + seed))
        if round_ == 3:
            trainer.bags.tables["tags"].remove([3])
        expected.append((save(tmp_path / "all", trainer, chain).path.name, content_of(trainer), trainer.export_dense()))
    assert [num_parts(Checkpoint(tmp_path / "all" / name)) for name, _, _ in expected] == [1, 2, 3, 4, 1, 2]
    assert trainer.bags.tables["user_id"].stats().evicted > 0
    for name, content, dense in expected:
        alone = Checkpoint(tmp_path / f"alone-{name}" / name)
        shutil.move(tmp_path / "all" / name, alone.path)
        alone.verify()
        restored = Trainer(job)
        restore_checkpoint(alone, restored, "training")
        assert content_of(restored) == content
        for key, value in restored.export_dense().items():
            np.testing.assert_array_equal(value.numpy(), dense[key].numpy())
        assert inspect_checkpoint(alone.path).tables[1].stats.rows == len(content["user_id"][0])


def test_a_replica_starts_from_any_checkpoint_of_a_chain(make_job: Make, make_examples: Examples) -> None:
    job = make_job()
    trainer, chain, directory = Trainer(job), IncrementChain(3), Path(job.trainer.checkpoint_dir)
    for round_ in range(3):
        trainer.step(make_examples(round_))
        checkpoint = save(directory, trainer, chain)
        assert checkpoint.has_packed(trainer.bags.tables) == (round_ == 0)
        loaded = CheckpointLoader(job, Cpu(), ManualClock()).load_newest()
        assert loaded is not None and loaded.checkpoint == checkpoint
        digests = {name: table.drain_encoded(f"test-{round_}").digest for name, table in trainer.bags.tables.items()}
        assert loaded.state.table.digest == digest_tables(digests)


def test_an_increment_writes_a_tenth_of_a_whole_checkpoint(make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    trainer, chain = Trainer(make_job()), IncrementChain(60)
    trainer.bags.tables["user_id"].assign(np.arange(30_000), np.ones((30_000, 8), np.float32), now_s=1_700_000_000)
    trainer.step(make_examples(0))
    whole = written_bytes(save(tmp_path, trainer, chain))
    for minute in range(1, 4):
        trainer.step(make_examples(minute))
        assert written_bytes(save(tmp_path, trainer, chain)) < whole / 10
    newest = Checkpoint.newest(tmp_path)
    assert newest is not None and len(EmbeddingTable.restore(*newest.table_parts("user_id"))) >= 30_000


def test_checkpoints_are_pruned_as_ever(make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    trainer, chain = Trainer(make_job()), IncrementChain(5)
    for seed in range(4):
        trainer.step(make_examples(seed))
        save(tmp_path, trainer, chain, keep=1)
    (left,) = Checkpoint.all_in(tmp_path)
    restored = Trainer(make_job())
    restore_checkpoint(left, restored, "training")
    assert num_parts(left) == 4 and content_of(restored) == content_of(trainer)


@pytest.mark.parametrize("fault", ["the parent is gone", "a write fails", "the saving is given up"])
def test_after_a_fault_a_checkpoint_is_whole(fault: str, make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    trainer, chain = Trainer(make_job()), IncrementChain(9)
    trainer.step(make_examples(0))
    parent = save(tmp_path, trainer, chain)
    trainer.step(make_examples(1))
    if fault == "the parent is gone":
        shutil.rmtree(parent.path)
    elif fault == "a write fails":
        saving = CheckpointSaving(CheckpointStore(tmp_path), trainer, Retention(9), chain)
        (tmp_path / ".saving.tmp" / "dense.safetensors").mkdir()
        saving.freeze(meta_of(trainer))
        with pytest.raises(CheckpointError, match="Is a directory"):
            saving.wait()
    else:
        chain.parent()
    trainer.step(make_examples(2))
    after = save(tmp_path, trainer, chain)
    restored = Trainer(make_job())
    restore_checkpoint(after, restored, "training")
    assert num_parts(after) == 1 and content_of(restored) == content_of(trainer)
    trainer.step(make_examples(3))
    assert num_parts(save(tmp_path, trainer, chain)) == 2


def test_a_restored_trainer_begins_a_new_chain(make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    trainer, chain = Trainer(make_job()), IncrementChain(9)
    for seed in range(2):
        trainer.step(make_examples(seed))
        checkpoint = save(tmp_path, trainer, chain)
    second, chain = Trainer(make_job()), IncrementChain(9)
    restore_checkpoint(checkpoint, second, "training")
    second.step(make_examples(2))
    assert num_parts(save(tmp_path, second, chain)) == 1


def test_increments_are_refused_in_an_object_store(make_job: Make) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint_full_interval must be 1 unless trainer\.checkpoint_dir is a folder, got 9"):
        make_job(trainer={"checkpoint_dir": "s3://bucket/shop", "checkpoint_full_interval": 9})
