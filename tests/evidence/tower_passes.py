"""One progressive pass of a tower over a stream: every example is predicted, then learnt, once, by the project's own modules.

Letters: n examples, B examples of a batch, W windows, R resamples.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from intervals import resampled_aucs
from streams import FloatArray
from torch.nn.functional import binary_cross_entropy_with_logits
from tower_streams import TowerStream
from tower_variants import TowerVariant

from monolith_py import _core
from monolith_py.data.schema import Schema
from monolith_py.model import build_model
from monolith_py.model.batch import Batch, make_batch
from monolith_py.table import EmbeddingBags
from monolith_py.training import auc, normalized_entropy
from monolith_py.training.dense_optimizer import DenseOptimizer

NUM_WINDOWS = 44
_EVICT_INTERVAL_S = 3600  # as the trainer sweeps


@dataclass(frozen=True)
class TowerOutcome:
    """Outcome of one pass. Times are of the processor, on one thread, so that what else runs on the machine is left out of them."""

    variant: str
    seed: int
    aucs: tuple[float, ...]  # of each span of the stream
    normalized_entropies: tuple[float, ...]
    resampled: FloatArray  # (R,) AUC of the last span for each resample of the users, the same resamples in every pass
    curve: FloatArray  # (W,) AUC of each window
    live_weights: int  # at the end
    density: float  # at the end
    moves: tuple[int, ...]  # steps after which the topology had changed
    rearmed: int | None  # step of the last drift that the swaps saw
    # Of what is dense: towers, loss, their gradients, optimizer and swaps. Steady: per step of the second half, when no ramp is left.
    dense_s: float
    steady_ms: float
    whole_s: float
    num_steps: int


class TowerPass:
    """Bags, model and optimizer of one variant, and the loop over the stream."""

    def __init__(self, stream: TowerStream, variant: TowerVariant, seed: int) -> None:
        job = stream.job(variant.model(stream.num_inputs, stream.num_steps), seed, variant.lr)
        self._stream, self._schema = stream, Schema.of(job)
        self._bags = EmbeddingBags.of(self._schema, job.optimizer.sparse, seed, job.sync.encoding)
        self.model = build_model(self._schema, job.model, seed)
        self.optimizer = DenseOptimizer(self.model, job.optimizer.dense, job.model.sparsity, seed)
        self.moves: list[int] = []
        self.step_s: list[float] = []

    def run(self) -> FloatArray:
        """Return the probability of each example, predicted before it was learnt: float32 (n,)."""
        stream = self._stream
        predictions = np.empty(len(stream), np.float32)
        sweep_due_s = 0
        for number, (start, features) in enumerate(stream.batches(), start=1):
            end = start + features.num_rows
            self._bags.now_s = int(stream.times_s[end - 1])
            predictions[start:end] = self._step(make_batch(features, self._schema), torch.from_numpy(stream.labels[start:end]), number)
            if self._bags.now_s >= sweep_due_s:
                self._bags.evict(self._bags.now_s)
                sweep_due_s = self._bags.now_s + _EVICT_INTERVAL_S
        return predictions

    def _step(self, batch: Batch, labels: torch.Tensor, number: int) -> FloatArray:
        """Predict, then learn, as `Trainer.step`: rows from the summed gradient, the towers from its mean."""
        pooled = self._bags(batch.sparse()).values()
        seen = pooled.detach().requires_grad_()
        began_s = time.thread_time()
        logits = self.model(seen, torch.from_numpy(batch.dense)).squeeze(1)
        loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        self.optimizer.before_backward()
        loss.backward()
        total = float(loss.detach())
        assert math.isfinite(total) and self.optimizer.has_finite_gradients()
        paused_s = time.thread_time()
        pooled.backward(seen.grad)
        resumed_s = time.thread_time()
        if self.optimizer.step(total, len(labels)):
            self.moves.append(number)
        self.step_s.append(time.thread_time() - resumed_s + paused_s - began_s)
        return torch.sigmoid(logits.detach()).numpy()

    def rearmed(self) -> int | None:
        """Return the step at which the drift test last started the swaps anew, None where it never did."""
        if self.optimizer.updater is None:
            return None
        steps, since_armed = self.optimizer.updater.state()["steps"].tolist()
        return int(steps - since_armed) or None


def learn(stream: TowerStream, variant: TowerVariant, seed: int) -> TowerOutcome:
    """Return what one pass of `variant` gives, on one thread."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    one = TowerPass(stream, variant, seed)
    began_s = time.thread_time()
    predictions = one.run()
    whole_s = time.thread_time() - began_s
    labels = stream.labels
    spans = [slice(start, end) for _, start, end in stream.spans]
    windows = np.array_split(np.arange(len(labels)), NUM_WINDOWS)
    return TowerOutcome(
        variant.name,
        seed,
        tuple(auc(labels[span], predictions[span]) for span in spans),
        tuple(normalized_entropy(labels[span], predictions[span]) for span in spans),
        resampled_aucs(labels[spans[-1]], predictions[spans[-1]], stream.groups[spans[-1]]),
        np.array([auc(labels[window], predictions[window]) for window in windows], np.float32),
        one.model.tower.num_live_weights,
        one.model.tower.density,
        tuple(one.moves),
        one.rearmed(),
        sum(one.step_s),
        1000 * float(np.mean(one.step_s[len(one.step_s) // 2 :])),
        whole_s,
        stream.num_steps,
    )
