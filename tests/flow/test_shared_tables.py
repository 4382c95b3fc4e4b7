"""Features that share a table: one row in the trainer, the same in replicas, checkpoints and requests to forget."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import ConfigError, ModelReplaced
from monolith_py.io import Log, MemoryLog
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.forget_requests import append_forget_requests
from monolith_py.io.log.topics import create_topics
from monolith_py.training import Checkpoint
from monolith_serving.replica.audit import audit_updates
from monolith_streaming.trainer.loop import OnlineTraining

NOW_MS = 1_700_000_000_000


def make_job(folder: Path, **settings: Any) -> JobConfig:
    features = [
        {"name": "seen", "source": "user", "dim": 8, "table": "item", "pooling": "mean"},
        {"name": "item", "source": "item_id", "dim": 8, "encoding": "int8"},
        {"name": "liked", "source": "user", "dim": 8, "table": "item", "frozen": True},
        {"name": "user", "source": "user_id", "dim": 8},
    ]
    for feature in features:
        feature |= settings.get(feature["name"], {}) | ({"encoding": "int8"} if feature.get("table") else {})
    return parse_job(
        {
            "name": "shared",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": features,
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [8], "precision": "fp32"},
            "trainer": {"checkpoint_dir": f"{folder}/checkpoints", "linger_s": 0.0, "num_threads": 1, **settings.get("trainer", {})},
        }
    )


def append(log: Log, seen: int, item: int, liked: int, *, time_ms: int = 1_000) -> None:
    columns = {"seen": seen, "item": item, "liked": liked, "user": 5}
    sparse = {name: SparseColumn(np.array([fid], np.int64), np.ones(1, np.int32)) for name, fid in columns.items()}
    one = np.ones(1, np.float32)
    examples = ExampleBatch(
        ("r",), np.array([item]), np.array([time_ms]), np.zeros(1, np.uint8), one, {"click": one}, FeatureColumns(1, sparse)
    )
    log.append("examples", [encode_examples(examples)], time_ms=time_ms)


def train(job: JobConfig, log: Log, at_s: int = 0) -> OnlineTraining:
    training = OnlineTraining(job, log, ManualClock(NOW_MS + at_s * 1000), lambda: False)
    training.run(stop_at_end=True)
    return training


@pytest.mark.parametrize("full_interval", [1, 4])
def test_replicas_have_the_trainer_s_rows_of_every_feature(full_interval: int, tmp_path: Path) -> None:
    job, log = make_job(tmp_path, trainer={"checkpoint_full_interval": full_interval, "checkpoints_kept": 9}), MemoryLog()
    create_topics(log, job.log)
    clock = ManualClock(NOW_MS)
    training = OnlineTraining(job, log, clock, lambda: False)
    table = training.trainer.bags.tables["item"]
    assert set(training.trainer.bags.tables) == {"item", "user"}
    for place in range(4):
        append(log, seen=1 + place, item=10 + place, liked=20 + place, time_ms=1_000 + place)
        assert training.step()
        assert table.fids().tolist() == sorted([*range(1, 2 + place), *range(10, 11 + place)])
        training.checkpoint()
        clock.advance(1.0)
    append_forget_requests(log, "forget_requests", "seen", [2], 5_000)
    append(log, seen=2, item=2, liked=2, time_ms=4_000)
    assert training.step() and 2 not in table.fids()
    training.checkpoint()
    for _ in range(4):
        newest = Checkpoint.newest(tmp_path / "checkpoints")
        assert newest is not None
        shutil.rmtree(newest.path)
        assert audit_updates(job, log, clock).num_compared > 0


def test_a_feature_that_gets_a_table_of_its_own_begins_with_the_shared_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    job = make_job(tmp_path)
    create_topics(log, job.log)
    append(log, seen=1, item=10, liked=1)
    before = train(job, log).trainer.bags.tables["item"]
    train(job, log, 1)
    assert "dropped" not in caplog.text and "the job has changed" not in caplog.text
    after = train(make_job(tmp_path, seen={"table": None}), log, 2).trainer.bags.tables
    assert set(after) == {"item", "seen", "user"}
    assert (after["seen"].lookup([1, 10]) == before.lookup([1, 10])).all()
    assert set(before.consumers()) == {"replicas", "replicas/seen", "replicas/liked"}
    assert set(after["item"].consumers()) == {"replicas", "replicas/liked"}
    assert "table item: consumer 'replicas/seen' is not of this job any more" in caplog.text
    newest = Checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None and newest.has_packed(["seen", "item", "liked", "user"])


def test_replicas_load_a_checkpoint_when_a_feature_begins_to_share(tmp_path: Path) -> None:
    """Rows of the table that the feature had would stay in replicas: no eviction names them."""
    log, job = MemoryLog(), make_job(tmp_path, seen={"table": None})
    create_topics(log, job.log)
    append(log, seen=1, item=10, liked=1)
    train(job, log)
    sharing = make_job(tmp_path)
    append(log, seen=2, item=11, liked=1, time_ms=2_000)
    assert train(sharing, log, 1).trainer.bags.tables["item"].fids().tolist() == [2, 10, 11]
    newest = Checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    shutil.rmtree(newest.path)
    with pytest.raises(ModelReplaced):
        audit_updates(sharing, log, ManualClock(NOW_MS))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (
            {"seen": {"table": "shop"}},
            r"features.seen.table must name a feature with a table of its own, one of \['item', 'user'\], got 'shop'",
        ),
        ({"seen": {"table": "liked"}}, "features.seen.table must name a feature with a table of its own"),
        ({"seen": {"dim": 4}}, "features.seen.dim must be 8, as that of its table 'item', got 4"),
        ({"item": {"encoding": "fp16"}}, "features.seen.encoding must be 'fp16', as that of its table 'item', got 'int8'"),
        ({"seen": {"ttl_s": 9}}, "features.seen.ttl_s must be left out with a table of another feature, got 9"),
    ],
)
def test_a_table_that_cannot_be_shared_is_refused(settings: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rule):
        make_job(tmp_path, **settings)
