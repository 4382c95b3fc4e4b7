"""A promoter is killed at random moments while a trainer writes and prunes: its channel always has a whole checkpoint."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import CheckpointError
from monolith_py.io.objects import FolderObjects, Objects, open_objects
from monolith_py.training import CheckpointMeta, CheckpointSaving, CheckpointStore, Part, Retention, Trainer, open_checkpoints
from tests.s3_server import s3_server

NUM_KILLS = int(os.environ.get("MONOLITH_PROMOTER_KILLS", "12"))
PROMOTER = """
import json, sys
from monolith_py.clock import SystemClock
from monolith_py.config import parse_job
from monolith_py.errors import CheckpointError
from monolith_py.training import open_checkpoints

store = open_checkpoints(parse_job(json.loads(sys.argv[1])), "promoter", SystemClock())
print("ready", flush=True)
while True:
    for one in store.all():
        try:
            store.promote(one, "stable")
        except CheckpointError:  # pruned since it was listed
            pass
"""


class LaterClock(SystemClock):
    """A clock of a process that runs an hour later: leases of the dead have expired."""

    def now_ms(self) -> int:
        return super().now_ms() + 2 * 3_600_000


@pytest.fixture(params=["folder", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Settings of a job with its checkpoints in a folder or a bucket."""
    with ExitStack() as stack:
        location, objects = str(tmp_path / "checkpoints"), {}
        if request.param == "s3":
            server = stack.enter_context(s3_server())
            server.make_bucket("bucket")
            location = "s3://bucket/shop"
            objects = {"endpoint": server.endpoint, "region": "us-east-1", "cache_dir": str(tmp_path)}
        yield {
            "name": "drill",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "trainer": {"checkpoint_dir": location, "num_threads": 1},
            "objects": objects,
        }


@pytest.mark.long_drill
@pytest.mark.timeout(900)
def test_a_channel_has_a_whole_checkpoint_whenever_its_promoter_is_killed(settings: dict[str, Any]) -> None:
    job = parse_job(settings)
    store, trainer = open_checkpoints(job, "trainer", SystemClock()), Trainer(job)
    save(store, trainer, 1)
    store.promote(store.all()[0], "stable")
    moments, step, seen = random.Random(7), 1, set[str]()
    for _ in range(NUM_KILLS):
        with subprocess.Popen([sys.executable, "-c", PROMOTER, json.dumps(settings)], stdout=subprocess.PIPE, text=True) as promoter:
            assert promoter.stdout is not None and promoter.stdout.readline() == "ready\n"
            until_s = time.monotonic() + moments.uniform(0.02, 0.6)
            while time.monotonic() < until_s:
                save(store, trainer, step := step + 1)
            promoter.kill()
        seen.update(checked_channel(job))
    print(f"{step} checkpoints written, {len(seen)} seen in the channel")
    assert len(seen) > 1, "the promoter got to its work"

    later = open_checkpoints(job, "later", LaterClock())
    save(later, trainer, step + 1)
    later.promote(later.all()[0], "stable")
    save(later, trainer, step + 2)  # deletes what only the channel had
    assert checked_channel(job) == [f"step-{step + 1:012d}"]
    assert {key.split("/")[0] for key in objects_of(job).list() if key.startswith("step-")} == {one.path.name for one in later.all()} | {
        f"step-{step + 1:012d}"
    }


def save(store: CheckpointStore, trainer: Trainer, step: int) -> None:
    """Write a checkpoint as a trainer that keeps two."""
    trainer.bags.tables["item_id"].find_or_insert(np.arange(step * 100, step * 100 + 100), now_s=0)
    saving = CheckpointSaving(store, trainer, Retention(2))
    saving.freeze(CheckpointMeta("drill", step, 0, 1, 0, 0, {}, 0, SystemClock().now_ms()))
    saving.wait()


def checked_channel(job: JobConfig) -> list[str]:
    """Return the names of the checkpoints in the channel, at least one; check every file of each."""
    store = open_checkpoints(job, "replica", SystemClock(), "stable")
    found = store.all()
    for one in found:
        try:
            with store.reading(one):
                store.fetch(one, Part.ALL)
                one.verify()
        except CheckpointError as error:
            pytest.fail(f"{one} in the channel: {error}")
    assert found
    return [one.path.name for one in found]


def objects_of(job: JobConfig) -> Objects:
    location = job.trainer.checkpoint_dir
    return open_objects(location, job.objects) if "://" in location else FolderObjects(Path(location))
