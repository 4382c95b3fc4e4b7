"""Training steps: predict, measure, learn.

Letters: B examples, T tasks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.layout import Layout
from monolith_py.data.schema import Schema
from monolith_py.errors import PoisonedBatch, WireError
from monolith_py.model import RankModel, build_model
from monolith_py.model.batch import make_batch
from monolith_py.model.experts import Experts
from monolith_py.model.link import scores_of
from monolith_py.observe import metrics
from monolith_py.table import EmbeddingBags
from monolith_py.tower.rule.history import SwapHistory
from monolith_py.training.dense_optimizer import DenseOptimizer
from monolith_py.training.event_time import advanced_ms
from monolith_py.training.loss import TaskLoss
from monolith_py.training.quality import BEFORE_LEARNING, Quality, QualityMonitor

_logger = logging.getLogger(__name__)

# Figures that tasks of another kind lack.
_OF_SOME_KINDS = {"rmse", "r2", "logloss", "accuracy"}


class Trainer:
    """Model, optimizers and figures of a job.

    `step` predicts before it learns; `quality` has the figures of those predictions and of the served scores in the examples. Rows learn
    from the summed gradient of the batch, as from its examples one by one; dense parameters from the mean gradient of
    `examples_per_step` examples, at the rate of `DenseOptimizerConfig`.
    """

    def __init__(self, job: JobConfig) -> None:
        self.schema = Schema.of(job)
        self.bags = EmbeddingBags.of(self.schema, job.optimizer.sparse, job.seed, job.sync.encoding)
        self.model: RankModel = build_model(self.schema, job.model, job.seed)
        dense = job.optimizer.dense
        # Batches of one size: with steps of several sizes Adam would weigh the examples of small ones more.
        examples_per_step = max(job.trainer.batch_size, dense.reference_batch)
        self._new_optimizer = partial(DenseOptimizer, self.model, dense, job.model.sparsity, job.seed, examples_per_step)
        self.optimizer = self._new_optimizer()
        self.layout = Layout.of(job)
        # Of the model, for its checkpoints.
        self.settings: dict[str, Any] = job.model_dump(mode="json", include={"seed", "features", "tasks", "model", "optimizer"})
        self.num_examples = 0
        self.num_batches = 0
        self.watermark_ms = 0
        self._evict_interval_s, self._evict_due_s = job.trainer.evict_interval_s, 0.0
        self._loss = TaskLoss(self.schema.tasks, tuple(task.weight for task in job.tasks), self.schema.settings)
        self._counters = metrics.TotalCounters()
        self.quality = QualityMonitor(self.schema.tasks, settings=self.schema.settings)

    def step(self, examples: ExampleBatch) -> FloatArray:
        """Predict, then learn; return the predicted scores, float32 (B, T).

        Raises:
            PoisonedBatch: loss or gradient is not finite; nothing was learnt.
            WireError: the examples do not fit the schema, or a label is missing or wrong; nothing was learnt.
            TableFull: a table has no free row; nothing was learnt.
        """
        batch = make_batch(examples.features, self.schema)
        missing = [task for task in self.schema.tasks if task not in examples.labels]
        if missing:
            raise WireError(f"examples.labels must have every task, got none for {missing}")
        labels = self._loss.labels(examples)
        watermark_ms = advanced_ms(self.watermark_ms, examples.times_ms)
        self.bags.now_s = watermark_ms // 1000
        if not self.model.training:
            self.model.train()
        self.optimizer.bias_start.add(self._loss.targets(labels), torch.from_numpy(examples.sample_rates))
        try:
            pooled = self.bags(batch.sparse()).values()
            leaf = pooled.detach().requires_grad_()  # the first backward, of the dense parameters, ends here
            logits = self.model(leaf, torch.from_numpy(batch.dense))
            loss, penalty = self._loss(logits, labels, examples), self.model.take_penalty()
            self._learn(pooled, leaf, loss if penalty is None else loss + penalty, len(examples))
        except BaseException:
            self.optimizer.bias_start.undo()
            raise
        scores: FloatArray = self._scores(logits.detach())
        self.watermark_ms = watermark_ms
        self.num_examples += len(examples)
        self.num_batches += 1
        self.model.advance(len(examples))
        self.quality.add(examples, labels.numpy(), scores)
        metrics.EXAMPLES_TRAINED.inc(len(examples))
        metrics.BATCHES_TRAINED.inc()
        self._evict()
        return scores

    def _scores(self, logits: Tensor) -> FloatArray:
        if self.model.links:
            return scores_of(logits.numpy(), self.model.links)
        scores: FloatArray = torch.sigmoid(logits).numpy()
        return scores

    def export_dense(self) -> dict[str, Tensor]:
        """Return copies of the dense parameters by name, those that replicas need beside the rows."""
        return {name: value.detach().clone().contiguous() for name, value in self.model.state_dict().items()}

    def restart_optimizer(self) -> None:
        """Start the optimizer of the dense parameters anew, from their current values and topology."""
        self.optimizer = self._new_optimizer()

    def resume(self, *, num_batches: int, num_examples: int, watermark_ms: int) -> None:
        """Set the counts to those of a checkpoint; call after restoring tables, model and optimizer."""
        self.num_batches, self.num_examples, self.watermark_ms = num_batches, num_examples, watermark_ms
        self._evict_due_s = self._evict_time_s()
        for counter, total in self._totals():
            self._counters.start(counter, total)

    def _evict_time_s(self) -> float:
        """Return the last due time of an eviction, event time: a multiple of the interval, so it depends only on the stream."""
        now_s = self.watermark_ms // 1000
        return now_s - now_s % self._evict_interval_s

    def _learn(self, pooled: Tensor, leaf: Tensor, loss: Tensor, num_examples: int) -> None:
        """Run backward to `leaf`; if all gradients are finite, run backward of `pooled`, which updates the rows, then step."""
        self.optimizer.before_backward()
        loss.backward()  # type: ignore[no-untyped-call]
        total = float(loss.detach())
        if not (math.isfinite(total) and self.optimizer.has_finite_gradients()):
            raise PoisonedBatch(f"loss and gradients must be finite, got loss {total}")
        if not pooled.requires_grad:  # all features are frozen
            self.optimizer.step(total, num_examples)
            return
        try:
            pooled.backward(leaf.grad)  # type: ignore[no-untyped-call]
        except PoisonedBatch as error:
            raise PoisonedBatch(f"{error}; loss {total}") from error
        self.optimizer.step(total, num_examples)

    def report(self) -> list[Quality]:
        """Set the gauges of quality, tables and topology, advance the counters, and return the quality."""
        found = self.quality.report()
        _report_quality(found)
        if self.optimizer.updater is not None:
            _report_topology(self.optimizer.updater.history)
        if self.model.experts is not None:
            _report_gates(self.schema.tasks, self.model.experts)
        for name, table in self.bags.tables.items():
            stats = table.stats()
            metrics.TABLE_ROWS.labels(table=name).set(stats.rows)
            metrics.TABLE_BYTES.labels(table=name).set(stats.bytes)
            metrics.TABLE_CANDIDATES.labels(table=name).set(stats.candidates)
        for counter, total in self._totals():
            self._counters.advance(counter, total)
        return found

    def _totals(self) -> Iterator[tuple[metrics.Counter, float]]:
        """Yield each counter of tables and topology with its total since the start of the job."""
        for name, table in self.bags.tables.items():
            stats = table.stats()
            yield metrics.TABLE_ROWS_ADMITTED.labels(table=name), stats.admitted
            yield metrics.TABLE_LOOKUPS_FILTERED.labels(table=name), stats.filtered
            yield metrics.TABLE_ROWS_EVICTED.labels(table=name), stats.evicted
            yield metrics.TABLE_ROWS_FREED.labels(table=name), stats.freed
        if self.optimizer.updater is not None:
            yield metrics.TOWER_TOPOLOGY_UPDATES, self.optimizer.updater.history.num_swaps

    def _evict(self) -> None:
        """Evict the rows that have expired at the due time, once every `evict_interval_s` of event time.

        At the time of the batch that passes it, they would depend on where batches begin: a trainer that restarts cuts the stream
        elsewhere, and replicas would lack rows that it has.
        """
        due_s = self._evict_time_s()
        if due_s > self._evict_due_s:
            evicted = self.bags.evict(due_s)
            self._evict_due_s = due_s
            if num := sum(map(np.size, evicted.values())):
                _logger.info("evicted %d expired rows", num)


def _report_quality(found: list[Quality]) -> None:
    """Set the gauges of these figures, and remove those of models without."""
    metrics.clear_quality()
    for quality in found:
        gauges, labels = (metrics.PROGRESSIVE, {}) if quality.source == BEFORE_LEARNING else (metrics.SERVED, quality.source._asdict())
        labels.pop("kind", None)
        for gauge, name in gauges.items():
            value = getattr(quality, name)
            if not (math.isnan(value) and name in _OF_SOME_KINDS):
                gauge.labels(task=quality.task, **labels).set(value)


def _report_gates(tasks: tuple[str, ...], experts: Experts) -> None:
    """Set the gauges of the gates over the examples since the last report, if there were any."""
    found = experts.report()
    if found is None:
        return
    weights, entropies, active = found
    for place, task in enumerate(tasks):
        metrics.GATE_ENTROPY.labels(task=task).set(float(entropies[place]))
        metrics.GATE_EXPERTS.labels(task=task).set(float(active[place]))
        for expert in range(weights.shape[1]):
            metrics.EXPERT_LOAD.labels(task=task, expert=str(expert)).set(float(weights[place, expert]))


def _report_topology(history: SwapHistory) -> None:
    """Set the gauges of the topology; a rate that is not known yet leaves its gauge unchanged."""
    metrics.TOWER_DENSITY.set(history.density)
    for index, num_live in enumerate(history.live_atoms):
        metrics.TOWER_LIVE_ATOMS.labels(layer=str(index)).set(num_live)
    for gauge, value in ((metrics.TOWER_REGRET_RATE, history.regret_rate), (metrics.TOWER_NEWBORN_SURVIVAL, history.newborn_survival)):
        if not math.isnan(value):
            gauge.set(value)
