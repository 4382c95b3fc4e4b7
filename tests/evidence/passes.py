"""One progressive pass of DeepFM over a stream: every example is predicted, then learnt, once.

Letters: n examples, B examples of a batch, F features, H hashed features, T tables, D a row's dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from intervals import resampled_aucs
from streams import Columns, FloatArray, Int64Array
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from variants import Variant, folded

from monolith_py import _core
from monolith_py.config import DenseFeatureConfig, FeatureConfig, ModelConfig
from monolith_py.data.schema import Schema
from monolith_py.model import RankModel, build_model
from monolith_py.table import Adagrad, EmbeddingBags, EmbeddingTable, Feature, MemoryBudget, Slice
from monolith_py.training import auc, normalized_entropy

# What the core counts for an entry of the id map and for a row's fid when it holds a table to its budget (used_bytes in
# monolith_py/core/table/table_content.hpp). The memory that it asks the system for comes in pages, which hide what small tables need.
ENTRY_BYTES = 16 / 0.65
FID_BYTES = 8


@dataclass(frozen=True)
class Outcome:
    """Outcome of one pass: of the scored examples, and of the hashed features' tables."""

    variant: str
    seed: int
    auc: float
    normalized_entropy: float
    resampled: FloatArray  # (R,) AUC of each resample of the users, the same resamples in every pass
    most_rows: int  # at one time
    most_bytes: int  # at one time, as a budget counts


class Pass:
    """The tables and the model of one variant, and the loop over the stream."""

    def __init__(self, columns: Columns, variant: Variant, seed: int) -> None:
        self._columns, self._variant, self._recipe = columns, variant, variant.recipe
        self._names, self._fids = self._tables_of(seed)
        rule = Adagrad(lr=self._recipe.row_lr, initial_accumulator=self._recipe.row_accumulator)
        self._bags = EmbeddingBags([self._feature(name) for name in self._names], rule, seed=1000 * seed)
        self._weighed = [table for name, table in self._bags.tables.items() if self._owner(name) in columns.hashed]
        self._model = self._build_model(seed)
        self._parameters = list(self._model.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=self._recipe.dense_lr, fused=True)
        self.most_rows, self.most_bytes = 0, 0

    def run(self) -> FloatArray:
        """Return the probability of each example, predicted before it was learnt: float32 (n,)."""
        predictions = np.empty(len(self._columns), np.float32)
        sweep_due_s = 0
        for start, batch in self._batches():
            end = start + batch.stride()
            self._bags.now_s = int(self._columns.times_s[end - 1])
            predictions[start:end] = self._step(batch, start, end)
            self.most_rows = max(self.most_rows, sum(map(len, self._weighed)))
            self.most_bytes = max(self.most_bytes, sum(map(self._used_bytes, self._weighed)))
            if self._bags.now_s >= sweep_due_s:
                self._bags.evict(self._bags.now_s)
                sweep_due_s = self._bags.now_s + self._recipe.sweep_interval_s
        return predictions

    def _step(self, batch: KeyedJaggedTensor, start: int, end: int) -> FloatArray:
        """Predict, then learn, as `Trainer.step`: rows from the summed gradient, the towers from its mean."""
        pooled = self._bags(batch).values()
        logits = self._model(self._combine(pooled), torch.from_numpy(self._columns.dense[start:end])).squeeze(1)
        loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(self._columns.labels[start:end]), reduction="sum")
        self._optimizer.zero_grad()
        loss.backward()
        torch._foreach_div_([value.grad for value in self._parameters], float(end - start))
        self._optimizer.step()
        return torch.sigmoid(logits.detach()).numpy()

    def _combine(self, pooled: Tensor) -> Tensor:
        """Return the model's rows, (B, T * D) -> (B, F * D): those of remainder and quotient made one, where a feature has both."""
        if not self._variant.has_quotients:
            return pooled
        width = len(self._columns.names) * self._recipe.dim
        remainders, quotients = pooled[:, :width], pooled[:, width:]  # (B, F * D), (B, H * D)
        hashed, rest = remainders[:, : quotients.shape[1]], remainders[:, quotients.shape[1] :]
        return torch.cat((hashed * quotients if self._variant.multiplies else hashed + quotients, rest), dim=1)

    def _tables_of(self, seed: int) -> tuple[list[str], Int64Array]:
        """Return the names of the tables and the fids that each sees, (T, n): features in their order, tables of quotients last."""
        columns, num_hashed = self._columns, len(self._columns.hashed)
        assert columns.names[:num_hashed] == columns.hashed
        parts = [folded(columns.fids[place], self._variant, 100 * seed + place) for place in range(num_hashed)]
        quotients = [part[1] for part in parts if self._variant.has_quotients]
        names = [*columns.names, *(f"{name}_quotient" for name, _ in zip(columns.hashed, quotients, strict=False))]
        return names, np.stack([*(part[0] for part in parts), *columns.fids[num_hashed:], *quotients])

    @staticmethod
    def _owner(table: str) -> str:
        return table.removesuffix("_quotient")

    def _feature(self, name: str) -> Feature:
        variant, recipe = self._variant, self._recipe
        owner = self._owner(name)
        if variant.multiplies and owner in self._columns.hashed:
            rule = Adagrad(lr=recipe.product_lr, initial_accumulator=recipe.row_accumulator)
            return Feature(name, recipe.dim, slices=(Slice("weights", recipe.dim, rule, init_scale=recipe.product_scale),))
        if owner not in (variant.only or self._columns.hashed):
            return Feature(name, recipe.dim)
        budget = None
        if variant.budget_share is not None:
            num_bytes = variant.budget_share * self._columns.num_ids(name) * row_bytes(recipe.dim)
            budget = MemoryBudget(int(num_bytes), variant.eviction)
        return Feature(name, recipe.dim, budget=budget, **variant.settings)

    def _build_model(self, seed: int) -> RankModel:
        columns, recipe = self._columns, self._recipe
        features = tuple(FeatureConfig(name=name, source="item", dim=recipe.dim) for name in columns.names)
        width = columns.dense.shape[1]
        dense = (DenseFeatureConfig(name="counters", source="item", dim=width),) if width else ()
        return build_model(Schema(features, dense, ("label",)), ModelConfig(tower=recipe.tower, precision="fp32"), seed)

    def _batches(self) -> Iterator[tuple[int, KeyedJaggedTensor]]:
        for start in range(0, len(self._columns), self._recipe.batch_size):
            fids = np.ascontiguousarray(self._fids[:, start : start + self._recipe.batch_size])  # (T, B)
            lengths, offsets = torch.ones(fids.size, dtype=torch.int32), torch.arange(fids.size + 1)
            yield start, KeyedJaggedTensor(self._names, torch.from_numpy(fids.ravel()), None, lengths, offsets, fids.shape[1])

    def _used_bytes(self, table: EmbeddingTable) -> int:
        """Return the bytes that a table needs now, as its budget counts them: rows, entries of fids that wait for one, the sketch."""
        stats = table.stats()
        admission = self._variant.settings.get("admission")
        sketch_bytes = admission.sketch_bytes if admission is not None and admission.kind == "sketch" else 0
        return int(stats.rows * row_bytes(table.dim) + stats.candidates * ENTRY_BYTES) + sketch_bytes


def row_bytes(dim: int) -> float:
    """Return the bytes of a row under Adagrad, its fid and its entry of the id map."""
    return 2 * 4 * dim + FID_BYTES + ENTRY_BYTES


def learn(columns: Columns, variant: Variant, seed: int) -> Outcome:
    """Return what one pass of `variant` gives; on one thread, so that passes can run side by side."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    one = Pass(columns if variant.counters else columns.without_dense(), variant, seed)
    predictions = one.run()[columns.warm_from :]
    labels, groups = columns.labels[columns.warm_from :], columns.groups[columns.warm_from :]
    return Outcome(
        variant.name,
        seed,
        auc(labels, predictions),
        normalized_entropy(labels, predictions),
        resampled_aucs(labels, predictions, groups),
        one.most_rows,
        one.most_bytes,
    )
