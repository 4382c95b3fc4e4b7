"""The replica and checkpoints: not ready before the first, then it stays at it or follows newer ones, by its settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import ConfigError, NotReady
from monolith_py.io.objects import FolderObjects
from monolith_py.observe.metrics import REPLICA_FAULTS
from monolith_py.training import Checkpoint, CheckpointMeta, CheckpointStore, Part, Trainer, save_checkpoint
from monolith_py.training.checkpoint.leases import Leases
from monolith_serving.replica.checkpoint_loader import CheckpointLoader
from monolith_serving.replica.replica import Replica


class CountedStop:
    """A stop signal that is set after `num_waits` waits, and keeps their lengths; `during(k)` is called in wait k."""

    def __init__(self, num_waits: int, during: Callable[[int], None] = lambda _: None) -> None:
        self._num_waits, self._during = num_waits, during
        self.waits_s: list[float] = []

    def is_set(self) -> bool:
        return len(self.waits_s) >= self._num_waits

    def wait(self, timeout_s: float) -> bool:
        self._during(len(self.waits_s))
        self.waits_s.append(timeout_s)
        return self.is_set()


def make_job(folder: Path, encoding: str = "int8", **serving: Any) -> JobConfig:
    return parse_job(
        {
            "name": "replica",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "trainer": {"checkpoint_dir": str(folder / "checkpoints"), "num_threads": 1},
            "sync": {"encoding": encoding},
            "serving": {"checkpoint_poll_s": 0.125, **serving},
        }
    )


def save(job: JobConfig, step: int) -> Path:
    """Write a checkpoint of an untrained model and return its folder."""
    meta = CheckpointMeta("replica", step, 0, 1, step, 0, {0: (0, 0)}, 0, 1_000 * step)
    return save_checkpoint(Path(job.trainer.checkpoint_dir), Trainer(job), meta, keep=10).path


@pytest.fixture
def job(tmp_path) -> JobConfig:
    return make_job(tmp_path)


@pytest.fixture
def replica(job):
    replica = Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))
    yield replica
    replica.close()


def test_a_replica_without_a_checkpoint_looks_again_every_poll_interval(replica):
    stop = CountedStop(3)
    replica.follow(stop)
    assert stop.waits_s == [0.125] * 3


def test_a_replica_without_a_checkpoint_is_not_ready(replica, job):
    assert not replica.is_ready and replica.staleness_ms() == 0
    for ask in (replica.require_ready, lambda: replica.state):
        with pytest.raises(NotReady, match=r"no checkpoint in '.*checkpoints' yet"):
            ask()


def versions(job: JobConfig, num_waits: int, during: Callable[[int], None]) -> list[str]:
    """Return the version of the model in each wait of a replica without a log; `during(k)` runs at the end of wait k."""
    replica, seen = Replica(job, None, torch.device("cpu"), ManualClock(1_000_000)), []

    def wait(number: int) -> None:
        seen.append(replica.state.version if replica.is_ready else "none")
        during(number)

    stop = CountedStop(num_waits, wait)
    replica.follow(stop)
    replica.close()
    assert set(stop.waits_s) <= {0.125}
    return [*seen, replica.state.version]


def test_a_replica_that_follows_nothing_stays_at_its_first_checkpoint(tmp_path):
    job = make_job(tmp_path, follow_updates=False)
    save(job, 1)
    assert versions(job, 5, lambda _: None) == ["1.1"]  # no wait


def test_a_replica_shows_its_rows_and_their_memory_once_loaded(tmp_path):
    job = make_job(tmp_path, follow_updates=False, arm="gauge_rows")
    save(job, 1)
    versions(job, 1, lambda _: None)
    rows, num_bytes = (REGISTRY.get_sample_value(f"monolith_replica_{name}", {"arm": "gauge_rows"}) for name in ("rows", "bytes"))
    assert (rows, num_bytes) == (0, 0)  # of an untrained model; None before


def test_a_replica_that_follows_checkpoints_loads_each_newer_one(tmp_path):
    job = make_job(tmp_path, follow_updates=False, follow_checkpoints=True)

    def during(number: int) -> None:
        if number in (0, 2, 5):
            save(job, number + 10)

    assert versions(job, 7, during) == ["none", "1.10", "1.10", "1.12", "1.12", "1.12", "1.15", "1.15"]


def test_a_replica_that_follows_checkpoints_goes_back_with_the_folder_and_passes_damaged_ones_over(tmp_path):
    job = make_job(tmp_path, follow_updates=False, follow_checkpoints=True)
    save(job, 1)

    def during(number: int) -> None:
        if number == 0:
            save(job, 2)
        elif number == 1:
            (save(job, 3) / "dense.safetensors").write_bytes(b"torn")
        elif number == 2:
            for step in (2, 3):
                shutil.rmtree(Path(job.trainer.checkpoint_dir) / f"step-{step:012d}")

    assert versions(job, 4, during) == ["1.1", "1.2", "1.2", "1.1", "1.1"]


class FailingLoader:
    """A loader that finds a checkpoint which raises what nobody foresaw."""

    def __init__(self) -> None:
        self.num_looks = 0

    def load_newest(self):
        self.num_looks += 1
        raise ZeroDivisionError("a bug")


def faults(reason: str) -> float:
    return REPLICA_FAULTS.labels(reason=reason)._value.get()


def test_a_checkpoint_that_raises_anything_unexpected_ends_no_replica_that_serves(tmp_path, caplog):
    """Every replica would have ended at its look at the same checkpoint: serving.md, row 30."""
    job, loader = make_job(tmp_path, follow_updates=False, follow_checkpoints=True), FailingLoader()
    save(job, 1)
    replica, before = Replica(job, None, torch.device("cpu"), ManualClock(1_000_000)), faults("ZeroDivisionError")
    assert replica.load_newest()
    sound, replica._loader = replica._loader, loader
    replica.follow(CountedStop(5))
    assert loader.num_looks == 5 and replica.state.version == "1.1"
    assert faults("ZeroDivisionError") == before + 1
    assert len([one for one in caplog.records if one.exc_info]) == 1
    replica._loader = sound
    save(job, 2)
    assert replica.load_newest() and replica.state.version == "1.2"
    replica.close()


def test_a_first_checkpoint_that_raises_anything_unexpected_ends_the_replica(replica):
    replica._loader = FailingLoader()
    with pytest.raises(ZeroDivisionError):
        replica.follow(CountedStop(5))


def test_a_damaged_checkpoint_is_logged_once_however_often_it_is_looked_at(tmp_path, caplog):
    job = make_job(tmp_path, follow_updates=False, follow_checkpoints=True)
    (save(job, 3) / "dense.safetensors").write_bytes(b"torn")
    replica = Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))
    replica.follow(CountedStop(5))
    assert len([line for line in caplog.messages if "torn or damaged" in line]) == 1
    replica.close()


def test_checkpoints_cannot_be_followed_beside_updates(tmp_path):
    with pytest.raises(ConfigError, match="follow_checkpoints must come with follow_updates = false, got follow_updates = true"):
        make_job(tmp_path, follow_checkpoints=True)


def rows_of(replica: Replica) -> int:
    assert replica.load_newest()
    return replica.state.table.digest


def save_rows(job: JobConfig, step: int) -> Checkpoint:
    """Write a checkpoint with 300 rows."""
    trainer = Trainer(job)
    trainer.bags.tables["item_id"].find_or_insert(np.arange(300), now_s=0)
    meta = CheckpointMeta("replica", step, 0, 1, step, 0, {0: (0, 0)}, 0, 1_000 * step)
    return save_checkpoint(Path(job.trainer.checkpoint_dir), trainer, meta, keep=10)


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8", "int4"])
def test_a_replica_has_the_same_rows_from_packed_rows_and_from_tables(tmp_path, encoding):
    job = make_job(tmp_path, encoding)
    checkpoint = save_rows(job, 1)
    packed = rows_of(Replica(job, None, torch.device("cpu"), ManualClock(1_000_000)))
    table = checkpoint.table("item_id").read_bytes()
    checkpoint.table("item_id").write_bytes(b"unread")
    assert rows_of(Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))) == packed
    checkpoint.table("item_id").write_bytes(table)
    checkpoint.packed("item_id").write_bytes(b"refused")
    assert rows_of(Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))) != 0


def test_a_replica_takes_the_tables_if_the_packed_rows_are_damaged_or_in_another_encoding(tmp_path, caplog):
    job = make_job(tmp_path, "int8")
    checkpoint = save_rows(job, 1)
    expected = rows_of(Replica(job, None, torch.device("cpu"), ManualClock(1_000_000)))
    content = bytearray(checkpoint.packed("item_id").read_bytes())
    content[-100] ^= 1
    checkpoint.packed("item_id").write_bytes(content)
    assert rows_of(Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))) == expected
    assert "item_id.rows: damaged: checksum of the chunk at byte" in caplog.text
    content[-100] ^= 1
    checkpoint.packed("item_id").write_bytes(content)
    other = Replica(make_job(tmp_path, "fp32"), None, torch.device("cpu"), ManualClock(1_000_000))
    assert rows_of(other) not in (0, expected) and other.state.table.num_rows == 300


class PruningStore(CheckpointStore):
    """A store whose trainer deletes each checkpoint but the first between the list of them and its reading."""

    def fetch(self, checkpoint: Checkpoint, part: Part) -> None:
        if checkpoint.meta.step > 1 and checkpoint.path.exists():
            shutil.rmtree(checkpoint.path)


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_checkpoint_that_is_deleted_after_it_was_listed_is_no_error(tmp_path, caplog, is_marked):
    job, clock = make_job(tmp_path, "int8"), ManualClock(1_000_000)
    save_rows(job, 1)
    newest = save_rows(job, 2)
    if is_marked:
        assert Leases(FolderObjects(newest.path.parent), clock).may_delete(newest.path.name)
    loader = CheckpointLoader(job, torch.device("cpu"), clock)
    loader._store = PruningStore(newest.path.parent, clock)
    loaded = loader.load_newest()
    assert loaded is not None and loaded.checkpoint.meta.step == 1
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_replica_passes_over_a_checkpoint_whose_rows_it_cannot_read_at_all(tmp_path, caplog):
    job = make_job(tmp_path, "int8")
    save_rows(job, 1)
    newest = save_rows(job, 2)
    for file in (newest.packed("item_id"), newest.table("item_id")):
        file.write_bytes(b"torn")
    replica = Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))
    assert replica.load_newest() and replica.state.version == "1.1"
    assert "item_id.rows: torn or damaged" in caplog.text
    assert not replica.load_newest(), "neither is newer"


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_checkpoint_whose_weights_are_not_finite_is_passed_over(tmp_path, caplog, weight):
    job = make_job(tmp_path, follow_updates=False, follow_checkpoints=True)
    save(job, 1)
    save(job, 2)  # a trainer of before has written what is not finite
    broken = Checkpoint.all_in(Path(job.trainer.checkpoint_dir))[0]
    dense, meta, model = broken.dense(), broken.meta, broken.model
    dense["head.bias"][0] = weight
    broken.manifest.unlink()
    broken.write(meta, model, dense, broken.optimizer())
    assert versions(job, 2, lambda _: None) == ["1.1"] * 3
    assert "dense.head.bias must be finite, got NaN or infinity" in caplog.text
