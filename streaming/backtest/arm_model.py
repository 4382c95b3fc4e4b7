"""Models of the arms: the trainer's own, and copies of it taken over at boundaries of event time.

Letters: B candidates, T tasks.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from monolith_py.data.columns import FloatArray
from monolith_py.model import RankModel
from monolith_py.model.batch import Batch
from monolith_py.model.link import scores_of
from monolith_py.table import EmbeddingBags, Sgd
from monolith_py.table.admission import EXACT_COUNT
from monolith_py.training import Trainer
from monolith_streaming.backtest.options import Arm


class ArmModel:
    """Model that an arm serves, in fp32.

    A copy holds weights alone, without the optimizer's state. It is exact, and costs time and memory in proportion to all rows, changed or
    not: 0.5 to 1 s for a million rows of dim 16.
    """

    def __init__(self, arm: Arm, trainer: Trainer) -> None:
        """Serve the present state of `trainer`."""
        self.arm, self._trainer = arm, trainer
        self._bags, self._model = trainer.bags, trainer.model
        self._boundary = 0
        if arm.refresh_s != 0:
            self._take_over()

    def start(self, time_ms: int) -> None:
        """Set the event time of the state, from which on boundaries count."""
        self._boundary = self._boundary_of(time_ms)

    def advance(self, time_ms: int) -> None:
        """Take over the trainer's state if event time has passed a boundary since the last call."""
        boundary = self._boundary_of(time_ms)
        if boundary != self._boundary:
            self._boundary = boundary
            self._take_over()

    def predict(self, batch: Batch) -> FloatArray:
        """Return the probability of each task, float32 (B, T); no row is made and no sighting counted."""
        self._model.eval()
        with torch.no_grad():  # without a graph the bags only look up
            pooled = self._bags(batch.sparse()).values()
            logits = self._model(pooled, torch.from_numpy(batch.dense))
            if self._model.links:
                return scores_of(logits.numpy(), self._model.links)
            scores: FloatArray = torch.sigmoid(logits).numpy()
        return scores

    def _boundary_of(self, time_ms: int) -> int:
        refresh_ms = self.arm.refresh_ms
        return time_ms // refresh_ms if refresh_ms else 0

    def _take_over(self) -> None:
        self._bags = _copy_bags(self._trainer.bags)
        self._model = _copy_model(self._trainer.model)


def _copy_bags(bags: EmbeddingBags) -> EmbeddingBags:
    """Return bags with the same weights: one step of SGD at rate 1, with the negative weights as gradient, from rows of zeros."""
    features = [
        replace(one, slices=(), initializer="zeros", admit_after=1, admission=EXACT_COUNT, ttl_s=None, budget=None) for one in bags.features
    ]
    other = EmbeddingBags(features, Sgd(lr=1.0))
    for name, table in bags.tables.items():
        fids, weights = table.export_rows()
        if len(fids):
            other.tables[name].update(other.tables[name].find_or_insert(fids, now_s=0), -weights)
    return other


def _copy_model(model: RankModel) -> RankModel:
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.grad = None
    return other
