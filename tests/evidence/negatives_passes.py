"""One progressive pass of a policy: every impression is scored at its time, every example learnt when the policy emits it.

Letters: n impressions, B examples of a step, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from negatives_policies import FEATURES, Emitted, Impressions, Policy, emitted
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from monolith_py import _core
from monolith_py.config import parse_job
from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.model import build_model
from monolith_py.model.batch import Batch, make_batch
from monolith_py.table import EmbeddingBags
from monolith_py.training import auc, calibration, normalized_entropy
from monolith_py.training.dense_optimizer import DenseOptimizer

# Within a slice all impressions are scored, then all examples that became known are learnt.
SLICE_MS = 180_000


@dataclass(frozen=True)
class Figures:
    """Figures of the scored impressions, one task."""

    auc: float
    auc_small: float  # of those on other tabs than the largest
    ne: float  # normalised entropy
    calibration: float


@dataclass(frozen=True)
class PolicyOutcome:
    """Result of one pass."""

    policy: str
    seed: int
    figures: dict[str, Figures]  # by task
    num_examples: int  # learnt


def run_policy(impressions: Impressions, policy: Policy, seed: int) -> PolicyOutcome:
    """Return the outcome of one pass, on one thread."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    examples = emitted(impressions, policy, seed)
    scores = Learner(impressions, policy, seed).run(examples)[impressions.scored_from :]
    figures, small = {}, impressions.on_small_tabs[impressions.scored_from :]
    for place, task in enumerate(policy.tasks):
        labels, scored = impressions.labels(task)[impressions.scored_from :], scores[:, place]
        of_small = auc(labels[small], scored[small])
        figures[task] = Figures(auc(labels, scored), of_small, normalized_entropy(labels, scored), calibration(labels, scored))
    return PolicyOutcome(policy.name, seed, figures, len(examples.rows))


class Learner:
    """Model and optimizers of the trainer, with the loss of a policy."""

    def __init__(self, impressions: Impressions, policy: Policy, seed: int) -> None:
        features = [{"name": name, "source": "context"} for name in FEATURES]
        job = parse_job(
            {
                "name": "negatives",
                "seed": seed,
                "log": {"url": "sqlite:////unused"},
                "kv": {"url": "memory:"},
                "features": features,
                "tasks": [{"name": task, "action": task} for task in policy.tasks],
                "model": {"tower": [64, 32], "precision": "fp32"},
                "trainer": {"checkpoint_dir": "unused"},
            }
        )
        self._impressions, self._policy = impressions, policy
        self._schema = Schema.of(job)
        self._bags = EmbeddingBags.of(self._schema, job.optimizer.sparse, seed, job.sync.encoding)
        self._model = build_model(self._schema, job.model, seed)
        self._optimizer = DenseOptimizer(self._model, job.optimizer.dense, job.model.sparsity, seed)

    def run(self, examples: Emitted) -> FloatArray:
        """Return the probabilities of all impressions at their time, float32 (n, T)."""
        scores = np.empty((len(self._impressions), len(self._policy.tasks)), np.float32)
        for scored, learnt in _slices(self._impressions.times_ms, examples.known_ms):
            if len(scored):
                scores[scored.start : scored.stop] = self._predict(np.arange(scored.start, scored.stop))
            if len(learnt):
                self._bags.now_s = int(self._impressions.times_ms[max(scored.stop, 1) - 1]) // 1000
                self._learn(Emitted(*(getattr(examples, name)[learnt.start : learnt.stop] for name in Emitted.__dataclass_fields__)))
        return scores

    def _batch(self, rows: Int64Array) -> Batch:
        one = np.ones(len(rows), np.int32)
        columns = {name: SparseColumn(self._impressions.fids[place][rows], one) for place, name in enumerate(FEATURES)}
        return make_batch(FeatureColumns(len(rows), columns), self._schema)

    def _predict(self, rows: Int64Array) -> FloatArray:
        batch = self._batch(rows)
        self._model.eval()
        with torch.no_grad():
            logits = self._model(self._bags(batch.sparse()).values(), torch.from_numpy(batch.dense))
        probabilities: FloatArray = torch.sigmoid(logits).numpy()
        return probabilities

    def _learn(self, examples: Emitted) -> None:
        batch = self._batch(examples.rows)
        self._model.train()
        positive = torch.from_numpy(examples.labels.astype(np.float32))
        sampled = np.where(examples.labels.any(axis=1), 1.0, examples.rates).astype(np.float32)
        self._optimizer.bias_start.add(positive, torch.from_numpy(sampled))
        pooled = self._bags(batch.sparse()).values()
        leaf = pooled.detach().requires_grad_()
        logits = self._model(leaf, torch.from_numpy(batch.dense))
        self._optimizer.before_backward()
        loss = policy_loss(logits, positive, examples, self._policy.correction)
        loss.backward()  # type: ignore[no-untyped-call]
        pooled.backward(leaf.grad)  # type: ignore[no-untyped-call]
        self._optimizer.step(float(loss.detach()), len(examples.rows))


def policy_loss(logits: Tensor, labels: Tensor, examples: Emitted, correction: str) -> Tensor:
    """Return the summed loss of logits and labels, float32 (B, T).

    - weights: 1 / rate for a negative (monolith_py/training/loss.py).
    - log_odds: the odds of a sample are 1 / rate times the true ones, so the loss is that of logit - log(rate), of weight 1, for negatives
      and positives alike (Wang et al. 2021, equation 8, arXiv 2110.13048). Right for one task.
    - fnw: every impression is a negative, every positive one more example. With the prediction p as a constant, a positive weighs 1 + p and
      a negative (1 - p)(1 + p) (Ktena et al. 2019, equation 9, arXiv 1907.06558).
    - fnc: on the same examples the share of positives is b = p / (1 + p), so the loss is that of b (the same, equation 12).
    """
    retracts = torch.from_numpy(examples.retracts).unsqueeze(1)  # (B, 1)
    taught = torch.from_numpy(examples.tasks)  # (B, T)
    rates = torch.from_numpy(examples.rates).unsqueeze(1)  # (B, 1)
    weights = torch.ones_like(logits)
    if correction == "weights":
        weights = torch.where(retracts | (labels.sum(dim=1, keepdim=True) == 0), 1.0 / rates, weights)
    elif correction == "log_odds":
        logits = logits - rates.log()
    elif correction == "fnw":
        p = torch.sigmoid(logits.detach())
        weights = (1 + p) * torch.where(labels > 0, torch.ones_like(p), 1 - p)
    elif correction == "fnc":
        logits = logsigmoid(logits)
    losses = weights * binary_cross_entropy_with_logits(logits, labels, reduction="none")
    taken_back = -logits * labels
    if correction == "weights":
        taken_back = taken_back + softplus(logits) * (1 - weights) * labels
    return torch.where(taught, torch.where(retracts, taken_back, losses), torch.zeros_like(losses)).sum()


def _slices(times_ms: Int64Array, known_ms: Int64Array) -> Iterator[tuple[range, range]]:
    """Yield the impressions to score and the examples to learn of each slice up to the last impression, empty slices left out."""
    first, last = int(times_ms[0]), int(times_ms[-1])
    ends = np.arange(first + SLICE_MS, last + SLICE_MS + 1, SLICE_MS)
    scored, learnt = np.searchsorted(times_ms, ends), np.searchsorted(known_ms, ends)
    before = (0, 0)
    for place in zip(scored.tolist(), learnt.tolist(), strict=True):
        if place != before:
            yield range(before[0], place[0]), range(before[1], place[1])
        before = place
