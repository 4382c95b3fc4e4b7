"""Readers of checkpoints that are slow or killed while one is kept and a new one comes each moment; uploads that are cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import CheckpointError, ObjectError
from monolith_py.training import (
    Checkpoint,
    CheckpointMeta,
    CheckpointSaving,
    CheckpointStore,
    Retention,
    Trainer,
    open_checkpoints,
    restore_checkpoint,
)
from monolith_serving.replica.replica import Replica
from tests.s3_server import s3_server

READER = """
import sys
from pathlib import Path
from monolith_py.training import CheckpointStore, Part

store = CheckpointStore(Path(sys.argv[1]))
one = store.all()[0]
with store.reading(one):
    print("reading", one.path.name, flush=True)
    sys.stdin.readline()  # as slow as the drill says
    one.verify(Part.ALL)
"""


def make_job(location: str, **sections: object) -> JobConfig:
    return parse_job(
        {
            "name": "drill",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "trainer": {"checkpoint_dir": location, "num_threads": 1},
            **sections,
        }
    )


def save(store: CheckpointStore, trainer: Trainer, step: int) -> Checkpoint:
    trainer.bags.tables["item_id"].find_or_insert(np.arange(step * 100, step * 100 + 2000), now_s=0)
    saving = CheckpointSaving(store, trainer, Retention(1))
    saving.freeze(CheckpointMeta("drill", step, 0, 1, 0, 0, {}, 0, SystemClock().now_ms()))
    return saving.wait()


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Return a function that starts a process which reads the newest checkpoint until it gets a line."""
    children: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", READER, str(tmp_path)]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert children[-1].stdout is not None
        assert children[-1].stdout.readline().startswith("reading step-")
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_a_slow_reader_reads_all_and_a_killed_one_frees_its_checkpoint(tmp_path: Path, read: Callable[[], subprocess.Popen[str]]) -> None:
    trainer, store = Trainer(make_job(str(tmp_path))), CheckpointStore(tmp_path)
    save(store, trainer, 1)
    slow, killed = read(), read()
    for step in range(2, 10):
        save(store, trainer, step)
    slow.communicate("go on\n")
    assert slow.returncode == 0
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [one.meta.step for one in Checkpoint.all_in(tmp_path)] == [9, 1]
    (lease,) = (path for path in (tmp_path / "leases").rglob("*") if path.is_file())
    lease.write_text('{"number": 1, "renewed_ms": 0}')  # an hour later
    newest = save(store, trainer, 10)
    assert Checkpoint.all_in(tmp_path) == [newest]


def test_an_upload_that_is_cut_off_leaves_the_checkpoint_before_and_a_killed_server_is_an_error(tmp_path: Path) -> None:
    with s3_server() as server:
        server.make_bucket("bucket")
        job = make_job("s3://bucket/shop", objects={"endpoint": server.endpoint, "region": "us-east-1", "cache_dir": str(tmp_path)})
        trainer = Trainer(job)
        store = open_checkpoints(job, "trainer", SystemClock())
        good = save(store, trainer, 1)
        cut(store, trainer, 2)
        other = open_checkpoints(job, "other", SystemClock())
        newest = other.newest()
        assert newest is not None and newest.path.name == good.path.name
        again = save(store, trainer, 3)
        restored, third = Trainer(job), open_checkpoints(job, "third", SystemClock())
        newest = third.newest()
        assert newest is not None and newest.path.name == again.path.name
        restore_checkpoint(newest, restored, "drill")
        assert len(restored.bags.tables["item_id"]) == len(trainer.bags.tables["item_id"])
        replica = Replica(job, None, torch.device("cpu"), SystemClock())
        assert replica.load_newest() and replica.state.table.num_rows == len(trainer.bags.tables["item_id"])
        assert not list((tmp_path / "drill" / "replica-0").rglob("*.table")), "a replica downloads no table"
        replica.close()
        server.kill()
        with pytest.raises(CheckpointError, match="not uploaded"):
            save(store, trainer, 4)
        with pytest.raises(ObjectError):
            open_checkpoints(job, "late", SystemClock()).newest()


def cut(store: CheckpointStore, trainer: Trainer, step: int) -> None:
    """Save a checkpoint whose upload is cut off at its second file."""
    objects, count = store._objects, [0]  # type: ignore[attr-defined]
    upload = objects.upload

    def upload_one(key: str, path: Path) -> None:
        count[0] += 1
        if count[0] == 2:
            raise ObjectError(f"{key}: connection lost")
        upload(key, path)

    objects.upload = upload_one
    with pytest.raises(CheckpointError, match="not uploaded"):
        save(store, trainer, step)
    objects.upload = upload
    assert any(key.startswith(f"step-{step:012d}/") for key in objects.list()), "a part of the upload is there"
