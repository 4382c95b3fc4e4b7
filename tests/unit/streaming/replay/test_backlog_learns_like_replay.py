"""A list-wise stream joined in one go trains the model that its replay trains, and in the same order."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import SqliteKv, open_log
from monolith_py.io.log.topics import create_topics
from monolith_py.training import Trainer, auc
from monolith_streaming.replay.beam import run_replay

World = Any
NUM_REQUESTS, NUM_CANDIDATES, NUM_ITEMS, NUM_USERS = 1500, 10, 60, 100
WINDOW_S, BETWEEN_S = 600, 4.0


def job_of(folder: Path, emit: str) -> JobConfig:
    features = [{"name": "user_id", "source": "user_id", "dim": 8}, {"name": "item_id", "source": "item_id", "dim": 8}]
    return parse_job(
        {
            "name": "lists",
            "log": {"url": f"sqlite:///{folder / 'log'}"},
            "kv": {"url": f"sqlite:///{folder / 'kv.db'}"},
            "features": features,
            "tasks": [{"name": "click", "action": "click"}],
            "model": {"tower": [16], "precision": "fp32"},
            "joiner": {"window_s": WINDOW_S, "emit": emit},
            "trainer": {"checkpoint_dir": str(folder / "checkpoints"), "num_threads": 1},
        }
    )


def column(values: list[int]) -> SparseColumn:
    return SparseColumn(np.array(values, np.int64), np.ones(len(values), np.int32))


def write_lists(world: World, job: JobConfig, log: Any) -> None:
    """Write requests of ten items; a click depends on item and user, 15 % on average, and comes within two minutes."""
    generator = np.random.default_rng(7)
    bias = generator.normal(0, 1.5, NUM_ITEMS)
    events: list[tuple[int, Impression | Action]] = []
    for number in range(NUM_REQUESTS):
        time_ms, user = world.now_ms + round(number * BETWEEN_S * 1000), int(generator.integers(NUM_USERS))
        items = [int(item) for item in generator.choice(NUM_ITEMS, NUM_CANDIDATES, replace=False)]
        shared, candidates = FeatureColumns(1, {"user_id": column([user])}), FeatureColumns(len(items), {"item_id": column(items)})
        no_scores = np.zeros((len(items), 0), np.float32)
        events.append((time_ms, Impression(f"r{number}", time_ms, user, np.array(items, np.int64), shared, candidates, no_scores)))
        for item in items:
            if generator.random() < 1 / (1 + np.exp(2.5 - bias[item])):
                clicked_ms = time_ms + int(generator.integers(1000, 120_000))
                events.append((clicked_ms, Action(f"r{number}", item, "click", clicked_ms)))
    world.append(job, log, *(event for _, event in sorted(events, key=lambda one: one[0])))


def frozen_auc(job: JobConfig, examples: ExampleBatch) -> float:
    """Return the AUC on the last third of the requests of a model that has learnt the others, in the order of their examples."""
    torch.set_num_threads(1)
    trainer = Trainer(job)
    is_scored = np.array([int(request_id[1:]) >= NUM_REQUESTS * 2 // 3 for request_id in examples.request_ids])
    bounds = [0, *(np.flatnonzero(np.diff(is_scored)) + 1).tolist(), len(examples)]
    runs = [examples.slice(start, stop) for start, stop in pairwise(bounds)]
    scored, history = (ExampleBatch.concat(runs[first::2]) for first in ((0, 1) if is_scored[0] else (1, 0)))
    for start in range(0, len(history), 256):
        trainer.step(history.slice(start, start + 256))
    return auc(scored.labels["click"], trainer.step(scored)[:, 0])


# By candidate the order of labels depends on the watermark, and a model of few examples on that order.
@pytest.mark.parametrize(("emit", "bound"), [("candidate", 0.01), ("request", 0.002)])
def test_a_backlog_of_lists_gives_the_order_and_the_model_of_its_replay(world: World, tmp_path: Path, emit: str, bound: float) -> None:
    job = job_of(tmp_path, emit)
    log = open_log(job.log.url)
    create_topics(log, job.log)
    write_lists(world, job, log)
    kv = SqliteKv(tmp_path / "kv.db")
    world.join(job, log, kv)
    kv.close()
    topic = run_replay(job, start_ms=world.now_ms, end_ms=world.now_ms + round(NUM_REQUESTS * BETWEEN_S * 1000), output=None).topic
    joined, replayed = ExampleBatch.concat(world.batches(job, log)), ExampleBatch.concat(world.batches(job, log, topic))
    log.close()
    places = [
        {key: place for place, key in enumerate(zip(one.request_ids, one.item_ids.tolist(), strict=True))} for one in (joined, replayed)
    ]
    assert places[0].keys() == places[1].keys() and len(places[0]) == NUM_REQUESTS * NUM_CANDIDATES
    # A replay orders examples exactly by the time at which they were known. The joiner's watermark is 5 s behind the last click, at
    # most 40 s or 10 requests; at the end of the log it stands still, while the last clicks come.
    before_end = {key: place for key, place in places[0].items() if place < len(joined) * 0.85}
    moved = np.array([abs(place - places[1][key]) for key, place in before_end.items()])
    assert moved.max() <= 10 * NUM_CANDIDATES
    aucs = [frozen_auc(job, one) for one in (joined, replayed)]
    assert aucs[1] > 0.7, "something was learnt"
    assert abs(aucs[0] - aucs[1]) < bound
