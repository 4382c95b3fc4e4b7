"""A changed job and its replicas: each takes only the model that it is built for, and no replica mixes two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_examples
from monolith_py.io.log.topics import create_topics
from monolith_py.model.batch import make_batch
from monolith_serving.replica.replica import Replica
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import StartOptions

USER, ITEM = ({"name": f"{name}_id", "source": f"{name}_id", "dim": 4} for name in ("user", "item"))
HOUR = {"name": "hour", "source": "context", "dim": 4}
BOTH = ("user_id", "item_id")


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., JobConfig]:
    def make(*features: dict[str, Any], folder: str = "checkpoints") -> JobConfig:
        return parse_job(
            {
                "name": "changing",
                "log": {"url": f"sqlite:///{tmp_path}/log"},
                "kv": {"url": "memory:"},
                "features": features or (USER, ITEM),
                "tasks": [{"name": "click", "action": "click"}],
                "model": {"tower": [8], "precision": "fp32"},
                "optimizer": {"dense": {"reference_batch": 8}},
                "sync": {"encoding": "fp32"},
                "trainer": {"checkpoint_dir": str(tmp_path / folder), "batch_size": 8, "linger_s": 0.0, "num_threads": 1},
            }
        )

    return make


@pytest.fixture
def log(make_job: Callable[..., JobConfig]) -> Iterator[Log]:
    with closing(open_log(make_job().log.url)) as log:
        create_topics(log, make_job().log)
        yield log


def columns(names: tuple[str, ...], num: int = 8, seed: int = 0) -> FeatureColumns:
    fids = {name: np.random.default_rng(seed + len(name)).integers(0, 20, num) for name in names}
    return FeatureColumns(num, {name: SparseColumn(fids[name], np.ones(num, np.int32)) for name in names}, {})


def train(job: JobConfig, log: Log, seed: int, options: StartOptions | None = None) -> OnlineTraining:
    """Train a batch of new examples of the job and stop."""
    names = tuple(feature.name for feature in job.features)
    times, labels = 1_700_000_000_000 + seed * 1000 + np.arange(8), {"click": np.arange(8, dtype=np.float32) % 2}
    ids = tuple(f"{seed}-{row}" for row in range(8))
    batch = ExampleBatch(ids, np.arange(8), times, np.zeros(8, np.uint8), np.ones(8, np.float32), labels, columns(names, seed=seed))
    log.append("examples", [encode_examples(batch)], time_ms=1)
    training = OnlineTraining(job, log, ManualClock(1_700_000_000_000 + seed), lambda: False, options or StartOptions())
    training.run(stop_at_end=True)
    return training


def caught_up(replica: Replica, log: Log) -> Replica:
    """The replica after everything in the log, or as far as it follows."""
    for _ in range(40):
        if replica._subscriber is None:
            if not replica.load_newest():
                break
        elif replica._subscriber.offset == log.end_offset("updates"):
            break
        else:
            replica.apply_updates(0.0)
    return replica


def make_replica(job: JobConfig, log: Log) -> Replica:
    return Replica(job, log, torch.device("cpu"), ManualClock(1_700_000_100_000))


def scores(model: Replica | OnlineTraining, names: tuple[str, ...]) -> Any:
    if isinstance(model, Replica):
        job = model._loader._schema
        return model.state.predict(make_batch(columns(names), job))
    trainer = model.trainer
    batch = make_batch(columns(names), trainer.schema)
    trainer.bags.eval()
    trainer.model.eval()
    with torch.no_grad():
        return torch.sigmoid(trainer.model(trainer.bags(batch.sparse()).values(), torch.from_numpy(batch.dense))).numpy()


def test_a_replica_of_the_former_job_keeps_what_it_has(log: Log, make_job: Callable[..., JobConfig]) -> None:
    former, reordered = make_job(USER, ITEM), make_job(ITEM, USER)  # of equal shapes
    first = train(former, log, 1)
    replica = caught_up(make_replica(former, log), log)
    before = scores(replica, BOTH)
    np.testing.assert_allclose(before, scores(first, BOTH), atol=1e-6)
    train(reordered, log, 2)
    np.testing.assert_array_equal(scores(caught_up(replica, log), BOTH), before)
    again = train(former, log, 3)
    np.testing.assert_allclose(scores(caught_up(replica, log), BOTH), scores(again, BOTH), atol=1e-6)


def test_a_replica_of_the_new_job_waits_for_its_trainer(log: Log, make_job: Callable[..., JobConfig]) -> None:
    former, wider = make_job(USER, ITEM), make_job(USER, HOUR, ITEM)
    train(former, log, 1)
    replica = caught_up(make_replica(wider, log), log)
    assert not replica.is_ready
    second = train(wider, log, 2)
    np.testing.assert_allclose(scores(caught_up(replica, log), (*BOTH, "hour")), scores(second, (*BOTH, "hour")), atol=1e-6)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_replica_that_runs_through_a_reset_holds_no_row_of_before(
    log: Log, make_job: Callable[..., JobConfig], tmp_path: Path, fresh: bool
) -> None:
    job = make_job()
    train(job, log, 1)
    replica = caught_up(make_replica(job, log), log)
    if fresh:
        (tmp_path / "checkpoints").rename(tmp_path / "away")
    after = train(job, log, 2, StartOptions(fresh=True) if fresh else StartOptions(reset_tables=("user_id",)))
    np.testing.assert_allclose(scores(caught_up(replica, log), BOTH), scores(after, BOTH), atol=1e-6)
    assert replica.state.table.num_rows == sum(len(table) for table in after.trainer.bags.tables.values())


def test_settings_that_are_no_layout_keep_replicas_following(log: Log, make_job: Callable[..., JobConfig]) -> None:
    train(make_job(), log, 1)
    replica = caught_up(make_replica(make_job(), log), log)
    loaded = replica._loader._loaded
    second = train(make_job({**USER, "ttl_s": 3600, "admit_after": 2}, ITEM), log, 2)
    np.testing.assert_allclose(scores(caught_up(replica, log), BOTH), scores(second, BOTH), atol=1e-6)
    assert replica._loader._loaded == loaded
