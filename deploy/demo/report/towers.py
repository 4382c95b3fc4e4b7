"""Sparse tower against a dense one: two trainers learn the run's examples from the log.

Both get the same batches in the same order, and predict each before they learn it. Letters: n labelled live examples, T tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from monolith_demo.report.measures import Quality, quality
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.config.sparsity import SparsityConfig
from monolith_py.data.examples import ExampleKind
from monolith_py.io import Log
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.io.log.topics import Topics
from monolith_py.training import Trainer
from monolith_streaming.trainer.source import ExampleSource
from monolith_streaming.trainer.step_order import SourcePlace

logging.getLogger("torch.fx").setLevel(logging.ERROR)  # a call of torchrec warns there, across the progress bars

SPARSE, DENSE = "sparse", "dense"


@dataclass(frozen=True)
class TowerPass:
    """Result of one trainer's pass over the examples."""

    quality: dict[str, Quality]  # by task, on the live examples
    density: float
    num_weights: int  # live ones
    num_swaps: int
    examples_per_s: float


def compare_towers(log: Log, job: JobConfig, live_from_ms: int, note: Callable[[int], None]) -> dict[str, TowerPass]:
    """Train both towers and return the passes by name, SPARSE (the job's tower) first. `note` gets the size of each batch."""
    torch.set_num_threads(1)  # as the demo's trainer does
    dense = job.model_copy(update={"model": job.model.model_copy(update={"sparsity": SparsityConfig()})})
    trainers = {SPARSE: Trainer(job), DENSE: Trainer(dense)}
    topics = Topics.of(job.log)
    source = ExampleSource(log, topics.examples, SourcePlace(), DeadLetters(log, topics.dead_letters, SystemClock()), SystemClock())
    labels: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {name: [] for name in trainers}
    seconds = dict.fromkeys(trainers, 0.0)
    while (batch := source.next_batch(job.trainer.batch_size, 0.0, lambda: True)) is not None:
        scored = (batch.times_ms >= live_from_ms) & (batch.kinds == ExampleKind.LABELLED)
        labels.append(np.stack([batch.labels[task] for task in trainers[SPARSE].schema.tasks], axis=1)[scored])
        for name, trainer in trainers.items():
            began_s = time.perf_counter()
            scores[name].append(trainer.step(batch)[scored])
            seconds[name] += time.perf_counter() - began_s
        note(len(batch))
    truth = np.concatenate(labels)  # (n, T)
    return {name: _pass(trainer, truth, np.concatenate(scores[name]), seconds[name]) for name, trainer in trainers.items()}


def _pass(trainer: Trainer, labels: np.ndarray, scores: np.ndarray, seconds: float) -> TowerPass:
    tower, updater = trainer.model.tower, trainer.optimizer.updater
    return TowerPass(
        {task: quality(labels[:, place] > 0.5, scores[:, place].astype(np.float64)) for place, task in enumerate(trainer.schema.tasks)},
        tower.density,
        tower.num_live_weights,
        updater.history.num_swaps if updater is not None else 0,
        trainer.num_examples / seconds,
    )
