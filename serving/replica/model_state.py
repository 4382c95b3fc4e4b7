"""State of a replica at one moment: rows, model and their age."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.model.batch import Batch
from monolith_py.model.link import scores_of
from monolith_py.sync import DenseState, DenseUpdate, apply_update
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.table import ReplicaTable


@dataclass(frozen=True)
class SharedBags:
    """Features that the candidates of a request share: looked up once for each of R requests, then added to its candidates' rows."""

    batch: Batch  # R rows; the other features are empty bags
    counts: Int64Array  # (R,) candidates of each request; B in all


@dataclass(frozen=True)
class ModelState:
    """Immutable except for the rows of `table`; a newer state replaces it."""

    table: ReplicaTable
    model: DenseModel
    dense: DenseState  # weights of `model`, the base of updates
    next_delta: tuple[int, int]  # (generation, seq) of the next delta to apply
    published_ms: int  # of the newest delta, or when the checkpoint was saved; wall clock

    @property
    def version(self) -> str:
        """Return the version "generation.seq"; seq counts the applied deltas of the generation."""
        return f"{self.next_delta[0]}.{self.next_delta[1]}"

    def predict(self, batch: Batch, shared: SharedBags | None = None) -> FloatArray:
        """Return the score of each task, float32 (B, T), for the B rows of the batch; the features in `shared` are empty in it."""
        if self.model.device is not None:
            return self._predict_in_torch(batch, shared)
        pooled = self.table.pool(batch)
        if shared is not None:
            pooled += np.repeat(self.table.pool(shared.batch), shared.counts, axis=0)
        return scores_of(self.model.logits(pooled, batch.dense), self.model.links)

    def after(self, next_delta: tuple[int, int], published_ms: int, update: DenseUpdate | None = None) -> ModelState:
        """Return the state after a delta; `update` is its dense update, None if it has none.

        Raises:
            DenseGap: the update needs another dense state.
            WireError: the update breaks a rule, or its weights do not fit the model.
        """
        model, dense = self.model, self.dense
        if update is not None:
            dense = apply_update(dense, update)
            model = model.after(dense)
        return replace(self, model=model, dense=dense, next_delta=next_delta, published_ms=max(published_ms, self.published_ms))

    def _predict_in_torch(self, batch: Batch, shared: SharedBags | None) -> FloatArray:
        import torch

        with torch.inference_mode():
            pooled = self.table.lookup(batch)
            if shared is not None:
                counts = torch.from_numpy(shared.counts).to(pooled.device)
                pooled += torch.repeat_interleave(self.table.lookup(shared.batch), counts, dim=0)
            logits = self.model.in_torch(pooled, torch.from_numpy(batch.dense).to(pooled.device))
            if self.model.links:
                return scores_of(logits.float().cpu().numpy(), self.model.links)
            scores: FloatArray = torch.sigmoid(logits.float()).cpu().numpy()
        return scores
