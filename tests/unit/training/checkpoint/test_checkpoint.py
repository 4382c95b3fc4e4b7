"""A checkpoint is complete or refused, and a restored trainer continues bit-equal."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError, CheckpointVersion, ModelNotFinite
from monolith_py.training import (
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    CheckpointStore,
    Retention,
    Trainer,
    restore_checkpoint,
    save_checkpoint,
)
from monolith_py.training.checkpoint.layout import VERSION


def meta_of(trainer: Trainer) -> CheckpointMeta:
    return CheckpointMeta(
        "training", trainer.num_batches, trainer.num_examples, 2, 17, 23, {0: (5, 3), 1: (9, 0)}, trainer.watermark_ms, 1_700_000_000_123
    )


def save(directory: Path, trainer: Trainer, keep: int = 3) -> Checkpoint:
    return save_checkpoint(directory, trainer, meta_of(trainer), keep=keep)


MODELS = {
    "dense": {},
    # At the fifth batch the ramp is under way, and gradients for the swap after the sixth are being collected.
    "dsl_online": {"sparsity": {"preset": "dsl_online", "update_interval": 3, "ramp": [1, 5], "score_batches": 2}},
    "dsl": {"sparsity": {"preset": "dsl", "update_interval": 3, "cosine_steps": 20}},
    "set": {"sparsity": {"preset": "set", "update_interval": 3}},
    "experts": {
        "experts": {"count": 2, "gate": "tree", "ramp_examples": 300},
        "sparsity": {"preset": "dsl_online", "update_interval": 3, "ramp": [1, 5], "score_batches": 2},
    },
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["adam", "adagrad", "sgd"])
def test_training_goes_on_bit_equal_from_a_checkpoint(
    make_job: Callable[..., JobConfig],
    make_examples: Callable[..., ExampleBatch],
    tmp_path: Path,
    model: str,
    dropout: float,
    kind: str,
) -> None:
    settings = {"tower": [32, 16], "dropout": dropout, "precision": "fp32", **MODELS[model]}
    job = make_job(model=settings, optimizer={"dense": {"kind": kind, "lr": 0.01}})
    one = Trainer(job)
    for seed in range(5):
        one.step(make_examples(seed))
    path = save(tmp_path, one)
    for seed in range(5, 10):
        one.step(make_examples(seed))
    two = Trainer(job)
    meta = restore_checkpoint(path, two, "training").meta
    assert (meta.offsets, meta.generation, meta.next_seq, meta.updates_offset) == ({0: (5, 3), 1: (9, 0)}, 2, 17, 23)
    for seed in range(5, 10):
        two.step(make_examples(seed))
    assert (one.num_examples, one.num_batches, one.watermark_ms) == (two.num_examples, two.num_batches, two.watermark_ms)
    for name, table in one.bags.tables.items():
        np.testing.assert_array_equal(table.export_rows()[1], two.bags.tables[name].export_rows()[1])
    for name, value in one.export_dense().items():
        np.testing.assert_array_equal(value.numpy(), two.export_dense()[name].numpy())


def test_a_checkpoint_that_training_goes_on_beside_is_of_the_moment_it_froze(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    one, two = Trainer(make_job()), Trainer(make_job())
    for seed in range(3):
        one.step(make_examples(seed))
    saving = CheckpointSaving(CheckpointStore(tmp_path), one, Retention(1))
    for seed in range(3, 9):
        one.step(make_examples(seed))
    saving.freeze(meta_of(one))
    frozen = {name: table.export_rows()[1] for name, table in one.bags.tables.items()}
    for seed in range(9, 12):
        one.step(make_examples(seed))
    restore_checkpoint(saving.wait(), two, "training")
    assert two.num_batches == 9
    for name, table in two.bags.tables.items():
        np.testing.assert_array_equal(table.export_rows()[1], frozen[name])
    for seed in range(9, 12):
        two.step(make_examples(seed))
    for name, value in one.export_dense().items():
        np.testing.assert_array_equal(value.numpy(), two.export_dense()[name].numpy())


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_taken(
    make_job: Callable[..., JobConfig],
    make_examples: Callable[..., ExampleBatch],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    good = save(tmp_path, trainer)
    trainer.step(make_examples(1))
    bad = save(tmp_path, trainer)
    assert Checkpoint.newest(tmp_path) == bad
    victim = bad.path / "manifest.json" if damage == "manifest" else bad.table("user_id")
    content = victim.read_bytes()
    if damage == "delete":
        victim.unlink()
    elif damage == "flip":
        victim.write_bytes(content[:200] + bytes([content[200] ^ 4]) + content[201:])
    else:
        victim.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.ERROR):
        assert Checkpoint.newest(tmp_path) == good
    assert victim.name in caplog.text


def test_only_the_newest_are_kept_and_a_torn_write_leaves_no_checkpoint(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    for seed in range(4):
        trainer.step(make_examples(seed))
        save(tmp_path, trainer, keep=2)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-000000000003", "step-000000000004"]
    (tmp_path / ".step-000000000005.tmp" / "tables").mkdir(parents=True)  # what a crash leaves behind
    newest = Checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.path.name == "step-000000000004"


def test_a_checkpoint_of_another_job_is_refused(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    path = save(tmp_path, trainer)
    with pytest.raises(CheckpointError, match="is of job 'training', expected 'other'"):
        restore_checkpoint(path, Trainer(make_job()), "other")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        _ = Checkpoint.at(tmp_path, 99).meta


def test_a_checkpoint_of_another_format_version_is_refused_and_not_passed_over(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    save(tmp_path, trainer)
    trainer.step(make_examples(1))
    old = save(tmp_path, trainer)
    manifest = old.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"version": {VERSION}', '"version": 1'))
    for read in (old.verify, lambda: Checkpoint(old.path).meta, lambda: Checkpoint.newest(tmp_path)):
        with pytest.raises(CheckpointVersion, match=f"{old}: format version must be {VERSION}, got 1") as refused:
            read()
        assert (refused.value.path, refused.value.expected, refused.value.got) == (old.path, VERSION, 1)


@pytest.mark.parametrize("name", ["dense.safetensors", "optimizer.safetensors"])
def test_a_file_of_tensors_that_is_damaged_or_absent_is_refused_by_name(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path, name: str
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    checkpoint = save(tmp_path, trainer)
    (checkpoint.path / name).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=name):
        restore_checkpoint(checkpoint, Trainer(make_job()), "training")
    (checkpoint.path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        restore_checkpoint(checkpoint, Trainer(make_job()), "training")


@pytest.mark.parametrize("name", ["dense", "optimizer"])
def test_a_file_of_tensors_of_a_dtype_that_numpy_lacks_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.safetensors"
    header = b'{"head.bias":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match=f"{file}: .*bfloat16"):
        getattr(Checkpoint(tmp_path), name)()


def test_a_disk_that_is_full_leaves_the_older_checkpoint(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    good = save(tmp_path, trainer)
    trainer.step(make_examples(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))  # writing beyond it fails as on a full disk
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            save(tmp_path, trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Checkpoint.newest(tmp_path) == good
    assert Checkpoint.newest(tmp_path) != save(tmp_path, trainer) == Checkpoint.newest(tmp_path)


def test_a_model_that_is_not_finite_is_not_saved_and_the_checkpoint_before_stays(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    good = save(tmp_path, trainer)
    trainer.step(make_examples(1))
    bias = trainer.model.head.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[1] = float("inf")
    with pytest.raises(ModelNotFinite, match=r"got NaN or infinity in \['head\.bias'\]"):
        save(tmp_path, trainer)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("leases")] == [good.path.name]
    with torch.no_grad():
        bias.copy_(before)
    assert save(tmp_path, trainer) == Checkpoint.newest(tmp_path) != good


def test_a_second_checkpoint_of_a_step_is_beside_the_first_until_it_is_whole(
    make_job: Callable[..., JobConfig], make_examples: Callable[..., ExampleBatch], tmp_path: Path
) -> None:
    trainer = Trainer(make_job())
    trainer.step(make_examples(0))
    save(tmp_path, trainer, keep=2)
    trainer.step(make_examples(1))
    for number in range(12):
        newest = save(tmp_path, trainer, keep=2)
        assert Checkpoint.newest(tmp_path) == newest
        assert newest.path.name == "step-000000000002" + (f".{number:04d}" if number else "")
    names = [one.path.name for one in Checkpoint.all_in(tmp_path)]
    assert names == ["step-000000000002.0011", "step-000000000001"], "others of its step push out no older one"
    trainer.step(make_examples(2))
    assert save(tmp_path, trainer, keep=2).path.name == "step-000000000003"
