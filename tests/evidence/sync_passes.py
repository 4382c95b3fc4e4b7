"""One training run beside replicas that get its rows and dense parameters now and then; each impression is scored, then learnt.

Letters: n impressions, s scored ones, B impressions of a batch, F features, D a row's dim.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sync_policies import AFTER_S, BATCH, INTERVALS_S, LOST_S, NEVER, Policy
from sync_stream import FloatArray, Int64Array, SyncStream
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from monolith_py import _core
from monolith_py.config import parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.model import RankModel, build_model
from monolith_py.model.batch import Batch, make_batch
from monolith_py.sync import RowEncoding, unpack_rows
from monolith_py.table import EmbeddingBags, EmbeddingTable
from monolith_py.training import auc, normalized_entropy
from monolith_py.training.dense_optimizer import DenseOptimizer

HISTORY_BATCH, SCORED_BATCH = 128, 16


@dataclass(frozen=True)
class Figures:
    """AUC and normalised entropy."""

    auc: float
    ne: float


@dataclass(frozen=True)
class SyncOutcome:
    """Figures of each policy of one training run, by its name."""

    seed: int
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class LossOutcome:
    """Figures of the live model after a lost snapshot, and without a loss: by lost time and part of the time after it."""

    seed: int
    lost: Mapping[tuple[str, str], Figures]
    kept: Mapping[str, Figures]


class Rows:
    """A replica's copy of all tables, from their own deltas: what a consumer has not drained it does not have."""

    def __init__(self, tables: Mapping[str, EmbeddingTable], ids: Sequence[Int64Array], encoding: RowEncoding, consumer: str) -> None:
        """`ids`: sorted fids of each feature."""
        self._tables, self._ids, self._encoding, self._consumer = tables, ids, encoding, consumer
        self._rows = [np.zeros((len(one), table.dim), np.float32) for one, table in zip(ids, tables.values(), strict=True)]

    def sync(self) -> None:
        """Apply the changes of the tables since the last call."""
        for place, table in enumerate(self._tables.values()):
            delta = table.drain_encoded(self._consumer)
            values = unpack_rows(delta.rows, table.dim, self._encoding)
            self._rows[place][np.searchsorted(self._ids[place], delta.fids)] = values
            table.ack(self._consumer, delta.ticket)

    def pooled(self, codes: Int64Array) -> Tensor:
        """Return the rows of `codes`, int64 (F, B), feature after feature: float32 (B, F * D); zeros for those without one."""
        return torch.from_numpy(np.concatenate([rows[code] for rows, code in zip(self._rows, codes, strict=True)], axis=1))


class Learner:
    """Tables, model and optimizers of the trainer over a stream."""

    def __init__(self, stream: SyncStream, seed: int, *, has_counters: bool) -> None:
        dense = [{"name": "counters", "source": "context", "dim": stream.live.shape[1]}] if has_counters else []
        job = parse_job(
            {
                "name": "sync",
                "seed": seed,
                "log": {"url": "sqlite:////unused"},
                "kv": {"url": "memory:"},
                "features": [{"name": name, "source": "context"} for name in stream.names],
                "dense_features": dense,
                "tasks": [{"name": "long_view", "action": "long_view"}],
                "model": {"tower": [64, 32], "precision": "fp32"},
                "trainer": {"checkpoint_dir": "unused"},
            }
        )
        self._stream, self._schema, self.has_counters = stream, Schema.of(job), has_counters
        self.encoding = RowEncoding(job.sync.encoding)
        self.bags = EmbeddingBags.of(self._schema, job.optimizer.sparse, seed, job.sync.encoding)
        self.model = build_model(self._schema, job.model, seed)
        self._optimizer = DenseOptimizer(self.model, job.optimizer.dense, job.model.sparsity, seed)

    def learn(self, rows: range) -> None:
        """Learn the impressions `rows`."""
        span = slice(rows.start, rows.stop)
        self.bags.now_s = int(self._stream.times_s[rows.stop - 1])
        batch, labels = self._batch(span), torch.from_numpy(self._stream.labels[span]).unsqueeze(1)
        self.model.train()
        self._optimizer.bias_start.add(labels, torch.ones(len(rows)))
        pooled = self.bags(batch.sparse()).values()
        leaf = pooled.detach().requires_grad_()
        logits = self.model(leaf, torch.from_numpy(batch.dense))
        self._optimizer.before_backward()
        loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        pooled.backward(leaf.grad)  # type: ignore[no-untyped-call]
        self._optimizer.step(float(loss.detach()), len(rows))

    def dense(self, rows: range, *, live: bool = True) -> Tensor:
        """Return the counters of `rows`, float32 (B, W), W = 0 without counters."""
        values = (self._stream.live if live else self._stream.frozen)[rows.start : rows.stop]
        return torch.from_numpy(values if self.has_counters else values[:, :0])

    def _batch(self, span: slice) -> Batch:
        one = np.ones(span.stop - span.start, np.int32)
        columns = {name: SparseColumn(self._stream.fids[place, span], one) for place, name in enumerate(self._stream.names)}
        dense = {"counters": self._stream.live[span]} if self.has_counters else {}
        return make_batch(FeatureColumns(len(one), columns, dense), self._schema)


class Replicas:
    """Copies of rows and dense parameters at each interval, and the scores of the policies that serve them."""

    def __init__(self, learner: Learner, stream: SyncStream, policies: Sequence[Policy]) -> None:
        found = [np.unique(fids, return_inverse=True) for fids in stream.fids]
        self._codes = np.stack([inverse for _, inverse in found])
        self._learner, self._policies, self._first = learner, policies, stream.scored_from
        tables, ids = learner.bags.tables, [one for one, _ in found]
        self._rows = {one: Rows(tables, ids, learner.encoding, one) for one in dict.fromkeys(policy.sparse for policy in policies)}
        self._models: dict[str, RankModel] = dict.fromkeys(dict.fromkeys(policy.dense for policy in policies), learner.model)
        self._due_s = dict.fromkeys([*self._rows, *self._models], -1.0)
        self.scores = {policy.name: np.empty(len(stream) - stream.scored_from, np.float32) for policy in policies}

    def sync(self, now_s: float) -> None:
        """Copy what is due."""
        for interval, due_s in self._due_s.items():
            if now_s < due_s:
                continue
            self._due_s[interval] = max(due_s, now_s if due_s < 0 else due_s) + max(INTERVALS_S[interval], 1e-9)
            while self._due_s[interval] <= now_s and interval not in (BATCH, NEVER):
                self._due_s[interval] += INTERVALS_S[interval]
            if interval in self._rows:
                self._rows[interval].sync()
            if interval in self._models:
                self._models[interval] = copy.deepcopy(self._learner.model).eval()

    def score(self, rows: range) -> None:
        """Score the impressions `rows` by each policy."""
        codes = self._codes[:, rows.start : rows.stop]
        pooled = {interval: one.pooled(codes) for interval, one in self._rows.items()}
        with torch.no_grad():
            for policy in self._policies:
                dense = self._learner.dense(rows, live=policy.has_live_counters)
                logits = self._models[policy.dense](pooled[policy.sparse], dense)
                span = slice(rows.start - self._first, rows.stop - self._first)
                self.scores[policy.name][span] = torch.sigmoid(logits).squeeze(1).numpy()


def run_sync(stream: SyncStream, seed: int, policies: Sequence[Policy], *, has_counters: bool) -> SyncOutcome:
    """Return the figures of all policies beside one training run."""
    learner, replicas = _started(stream, seed, policies, has_counters=has_counters)
    for rows in batches(stream.scored_from, len(stream), SCORED_BATCH):
        replicas.sync(float(stream.times_s[rows.start]))
        replicas.score(rows)
        learner.learn(rows)
    labels = stream.labels[stream.scored_from :]
    return SyncOutcome(seed, {name: figures_of(labels, scores) for name, scores in replicas.scores.items()})


def run_losses(stream: SyncStream, seed: int) -> LossOutcome:
    """Return the figures of the live model of ids after some hours of training were lost, and without a loss.

    The loss is a day after the first scored impression; its impressions are never learnt.
    """
    first_s, last_s = stream.times_s[[stream.scored_from, -1]].tolist()
    lost_at_s = first_s + min(max(LOST_S.values()), (last_s - first_s) // 2)  # a quick run has less than a day
    lost_to = int(np.searchsorted(stream.times_s, lost_at_s))
    lost: dict[tuple[str, str], Figures] = {}
    kept: dict[str, Figures] = {}
    for name, seconds in {"": 0, **LOST_S}.items():
        lost_from = int(np.searchsorted(stream.times_s, lost_at_s - seconds)) if seconds else lost_to
        scores = _live_scores(stream, seed, (max(lost_from, stream.scored_from), lost_to))
        for part, after_s in AFTER_S.items():
            end = int(np.searchsorted(stream.times_s, lost_at_s + after_s)) if after_s < np.inf else len(stream)
            figures = figures_of(stream.labels[lost_to:end], scores[lost_to - stream.scored_from : end - stream.scored_from])
            if name:
                lost[name, part] = figures
            else:
                kept[part] = figures
    return LossOutcome(seed, lost, kept)


def _live_scores(stream: SyncStream, seed: int, skipped: tuple[int, int]) -> FloatArray:
    """Return the scores of a model that gets every batch, and never learns the impressions [from, to) of `skipped`."""
    policy = Policy(BATCH, BATCH)
    learner, replicas = _started(stream, seed, [policy], has_counters=False)
    for begin, end in ((stream.scored_from, skipped[0]), skipped, (skipped[1], len(stream))):
        for rows in batches(begin, end, SCORED_BATCH):
            if (begin, end) == skipped:
                continue
            replicas.sync(float(stream.times_s[rows.start]))
            replicas.score(rows)
            learner.learn(rows)
    return replicas.scores[policy.name]


def _started(stream: SyncStream, seed: int, policies: Sequence[Policy], *, has_counters: bool) -> tuple[Learner, Replicas]:
    """Return a learner that has learnt the history, and its replicas."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    learner = Learner(stream, seed, has_counters=has_counters)
    for rows in batches(0, stream.scored_from, HISTORY_BATCH):
        learner.learn(rows)
    return learner, Replicas(learner, stream, policies)


def batches(begin: int, end: int, size: int) -> Iterator[range]:
    """Yield the impressions [begin, end) in parts of at most `size`."""
    for start in range(begin, end, size):
        yield range(start, min(start + size, end))


def figures_of(labels: FloatArray, scores: FloatArray) -> Figures:
    """Return the figures of scores, float32 (s,)."""
    return Figures(auc(labels, scores), normalized_entropy(labels, scores))
