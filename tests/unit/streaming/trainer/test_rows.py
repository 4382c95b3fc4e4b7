"""Rows of a job to a file from a checkpoint, and from files into a trainer that starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import CheckpointError, ConfigError
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.sync import decode_delta
from monolith_py.table import read_rows
from monolith_py.training import Checkpoint
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.rows import export_rows
from monolith_streaming.trainer.start import StartOptions
from monolith_streaming.trainer.versions import promote

Make = Callable[..., JobConfig]
Examples = Callable[..., ExampleBatch]
NOW_MS = 1_700_000_000_000


@pytest.fixture
def log(world: Any) -> Any:
    return world.MemoryLog()


def train(job: JobConfig, log: Any, *examples: ExampleBatch, files: tuple[tuple[str, Path], ...] = (), at_s: int = 0) -> OnlineTraining:
    create_topics(log, job.log)
    for one in examples:
        log.append("examples", [encode_examples(one)], time_ms=int(one.times_ms[-1]))
    training = OnlineTraining(job, log, ManualClock(NOW_MS + at_s * 1000), lambda: False, StartOptions(import_rows=files))
    training.run(stop_at_end=True)
    return training


def test_a_table_is_exported_and_a_new_model_starts_from_it(world: Any, make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    job = make_job()
    first = train(job, world.MemoryLog(), make_examples(1, 2, 3), make_examples(2))
    table = first.trainer.bags.tables["item"]
    num_rows, name = export_rows(job, "item", tmp_path / "rows.parquet")
    assert (num_rows, name) == (3, Checkpoint.all_in(Path(job.trainer.checkpoint_dir))[0].path.name)
    other = make_job(checkpoint_dir=f"{tmp_path}/other")
    log = world.MemoryLog()
    second = train(other, log, files=(("item", tmp_path / "rows.parquet"),))
    ours, theirs = table.read(table.fids()), second.trainer.bags.tables["item"].read([1, 2, 3])
    for column in ("fids", "weights", "state", "counts"):
        assert (getattr(ours, column) == getattr(theirs, column)).all(), column
    deltas = [decode_delta(record.value) for record in log.read("updates", 0, 0, 100)]
    assert sorted(fid for delta in deltas for fid in delta.fids.tolist()) == [1, 2, 3]


def test_a_file_is_imported_once_so_that_a_restart_undoes_nothing(
    log: Any, make_job: Make, make_examples: Examples, tmp_path: Path
) -> None:
    job, path = make_job(), tmp_path / "model.safetensors"
    save_file({"item.weight": torch.full((5, 4), 0.5)}, path)
    files = (("item", path),)
    train(job, log, make_examples(7))
    training = train(job, log, files=files, at_s=1)
    table = training.trainer.bags.tables["item"]
    assert table.fids().tolist() == [0, 1, 2, 3, 4, 7]
    assert (table.lookup([4]) == 0.5).all()
    learnt = train(job, log, make_examples(4, time_ms=2_000), files=files, at_s=2).trainer.bags.tables["item"].lookup([4])
    assert (learnt != 0.5).any()
    assert (train(job, log, files=files, at_s=3).trainer.bags.tables["item"].lookup([4]) == learnt).all()
    save_file({"item.weight": torch.full((9, 4), 0.25)}, path)
    assert (train(job, log, files=files, at_s=4).trainer.bags.tables["item"].lookup([4]) == 0.25).all(), "another file"


def test_a_table_that_starts_anew_takes_the_same_file_again(log: Any, make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    job, path = make_job(), tmp_path / "model.safetensors"
    save_file({"item.weight": torch.full((3, 4), 0.5)}, path)
    files = (("item", path),)
    train(job, log, make_examples(7), files=files)
    for at_s, options in ((1, StartOptions(import_rows=files, reset_tables=("item",))), (2, StartOptions(import_rows=files))):
        training = OnlineTraining(job, log, ManualClock(NOW_MS + at_s * 1000), lambda: False, options)
        training.run(stop_at_end=True)
        assert training.trainer.bags.tables["item"].fids().tolist() == [0, 1, 2]


def test_what_cannot_be_imported_or_exported_is_refused(log: Any, make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    job = make_job()
    with pytest.raises(CheckpointError, match="must hold an intact checkpoint, got none"):
        export_rows(job, "item", tmp_path / "rows")
    train(job, log, make_examples(1))
    with pytest.raises(CheckpointError, match=r"--feature must have a table in step-\d+, one of \['item'\], got 'shop'"):
        export_rows(job, "shop", tmp_path / "rows")
    with pytest.raises(CheckpointError, match=r"--checkpoint must be one of \['step-.*'\], got 'none'"):
        export_rows(job, "item", tmp_path / "rows", "none")
    path = tmp_path / "model.safetensors"
    save_file({"item": torch.zeros(5, 8)}, path)
    for feature, file, rule in (
        ("shop", path, r"--import-rows must name a feature, one of \['item'\], got 'shop'"),
        ("item", path, r"--import-rows item=.*: weights for table 'item' must be \(n, 4\), got \(5, 8\)"),
        ("item", tmp_path / "absent", "--import-rows must name a file, got .*absent"),
    ):
        with pytest.raises(ConfigError, match=rule):
            train(job, log, files=((feature, file),), at_s=1)


def test_a_checkpoint_of_a_channel_is_exported_by_its_name(log: Any, make_job: Make, make_examples: Examples, tmp_path: Path) -> None:
    job = make_job(checkpoints_kept=1)
    train(job, log, make_examples(1, 2))
    name = promote(job, "stable")
    train(job, log, make_examples(3, time_ms=2_000), at_s=1)
    assert name not in [one.path.name for one in Checkpoint.all_in(Path(job.trainer.checkpoint_dir))]
    assert export_rows(job, "item", tmp_path / "rows", f"channels/stable/{name}") == (2, name)
    assert export_rows(job, "item", tmp_path / "rows")[0] == 3


def test_rows_of_a_large_table_are_exported_in_shares(
    log: Any, make_job: Make, make_examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monolith_streaming.trainer.rows._SHARE_BYTES", 1_000)
    job = make_job()
    train(job, log, *(make_examples(*range(first, first + 8), time_ms=1_000 + first) for first in range(0, 80, 8)))
    assert export_rows(job, "item", tmp_path / "rows")[0] == 80
    fids = np.concatenate([chunk.fids for chunk in read_rows(tmp_path / "rows")])
    assert sorted(fids.tolist()) == list(range(80))


def test_a_job_of_frozen_features_learns_its_dense_parameters_alone(
    log: Any, make_job: Make, make_examples: Examples, tmp_path: Path
) -> None:
    job, path = make_job(features={"frozen": True}), tmp_path / "model.safetensors"
    save_file({"item.weight": torch.full((3, 4), 0.5)}, path)
    first = train(job, log, files=(("item", path),))
    before = first.trainer.export_dense()["head.bias"]
    training = train(job, log, make_examples(1, 2, 7), files=(("item", path),), at_s=1).trainer
    table = training.bags.tables["item"]
    assert table.fids().tolist() == [0, 1, 2] and (table.lookup([1]) == 0.5).all()
    assert (training.export_dense()["head.bias"] != before).all()
