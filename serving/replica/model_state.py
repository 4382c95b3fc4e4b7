"""State of a replica at one moment: rows, model and their age."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import WireError
from monolith_py.model import RankModel
from monolith_py.model.batch import Batch
from monolith_py.sync import DenseState, DenseUpdate, apply_update
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
    model: RankModel
    dense: DenseState  # weights of `model`, the base of updates
    next_delta: tuple[int, int]  # (generation, seq) of the next delta to apply
    published_ms: int  # of the newest delta, or when the checkpoint was saved; wall clock

    @property
    def version(self) -> str:
        """Return the version "generation.seq"; seq counts the applied deltas of the generation."""
        return f"{self.next_delta[0]}.{self.next_delta[1]}"

    def predict(self, batch: Batch, shared: SharedBags | None = None) -> FloatArray:
        """Return the probability of each task, float32 (B, T), for the B rows of the batch; the features in `shared` are empty in it."""
        with torch.inference_mode():
            pooled = self.table.lookup(batch)
            if shared is not None:
                counts = torch.from_numpy(shared.counts).to(pooled.device)
                pooled += torch.repeat_interleave(self.table.lookup(shared.batch), counts, dim=0)
            logits = self.model(pooled, torch.from_numpy(batch.dense).to(pooled.device))
            scores: FloatArray = torch.sigmoid(logits.float()).cpu().numpy()
        return scores

    def after(self, next_delta: tuple[int, int], published_ms: int, update: DenseUpdate | None = None) -> ModelState:
        """Return the state after a delta; `update` is its dense update, None if it has none.

        Raises:
            DenseGap: the update needs another dense state.
            WireError: the update breaks a rule, or its weights do not fit the model.
        """
        model, dense = self.model, self.dense
        if update is not None:
            dense = apply_update(dense, update)
            model = with_weights(model, dense.tensors)
        return replace(self, model=model, dense=dense, next_delta=next_delta, published_ms=max(published_ms, self.published_ms))


def with_weights(model: RankModel, weights: Mapping[str, Tensor]) -> RankModel:
    """Return a copy of `model` with other weights; other threads may use `model` meanwhile.

    Raises:
        WireError: names or shapes do not fit the model.
    """
    other = copy.deepcopy(model)
    try:
        other.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise WireError(f"dense parameters must fit the model of this job: {error}") from None
    other.freeze()
    return other
