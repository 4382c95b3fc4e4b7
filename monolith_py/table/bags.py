"""Pooled embedding look-up as a torch module, with TorchRec's shapes: KeyedJaggedTensor in, KeyedTensor out; backward updates the rows.

Letters: B rows of the batch, F features, n fids over all features, D the sum of the features' dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from monolith_py import _core
from monolith_py.config import FeatureConfig, SparseOptimizerConfig
from monolith_py.data.schema import Schema
from monolith_py.table.admission import EXACT_COUNT, Admission, MemoryBudget
from monolith_py.table.embedding_table import EmbeddingTable, Int64Array, TableSaving, UInt32Array
from monolith_py.table.optimizers import Optimizer, optimizer_from
from monolith_py.table.slices import Encoding, Initializer, Slice


@dataclass(frozen=True)
class Feature:
    """One sparse feature: how a bag of its fids is pooled, and its table.

    `pooling` is "sum", "mean" (over all fids of the bag, those without a row too), or "first": no pooling, the rows of the first `length`
    fids side by side, zeros where there are fewer. A feature with `table` looks its fids up in the table of the feature of that name, and
    leaves all that is the table's to it.
    """

    name: str
    dim: int = 16
    pooling: str = "sum"
    length: int = 0
    table: str | None = None
    slices: tuple[Slice, ...] = ()
    initializer: Initializer = "uniform"
    init_scale: float = 0.01
    admit_after: int = 1
    admission: Admission = EXACT_COUNT
    ttl_s: int | None = None
    budget: MemoryBudget | None = None

    def __post_init__(self) -> None:
        if self.pooling not in ("sum", "mean", "first"):
            raise ValueError(f"pooling of feature {self.name!r} must be 'sum', 'mean' or 'first', got {self.pooling!r}")
        if (self.pooling == "first") != (self.length > 0):
            raise ValueError(f"length of feature {self.name!r} must be > 0 for pooling 'first' and 0 for others, got {self.length!r}")

    def make_table(self, optimizer: Optimizer, seed: int) -> EmbeddingTable:
        """Return the feature's own table, empty."""
        return EmbeddingTable(
            self.dim,
            None if self.slices else optimizer,
            slices=self.slices,
            name=self.name,
            initializer=self.initializer,
            init_scale=self.init_scale,
            admit_after=self.admit_after,
            admission=self.admission,
            ttl_s=self.ttl_s,
            budget=self.budget,
            seed=seed,
        )


class EmbeddingBags(nn.Module):
    """One table for each feature; forward looks up and pools, backward takes the optimizer's step on the rows at once.

    In training, a forward that builds a graph counts sightings and makes rows; otherwise it only looks up. `now_s` is the event
    time of the batch, which admission and expiry go by. The rows are no parameters: no torch optimizer sees them, `state_dict`
    does not hold them (`save` and `restore` do), and gradients that reach them must be below 2^48, so that
    the optimizer's squares are finite.

    >>> from monolith_py.table import Sgd
    >>> bags = EmbeddingBags([Feature("user_id", dim=4)], optimizer=Sgd(lr=1.0))
    >>> kjt = KeyedJaggedTensor.from_lengths_sync(keys=["user_id"], values=torch.tensor([7, 8, 7]), lengths=torch.tensor([1, 2]))
    >>> pooled = bags(kjt)
    >>> pooled["user_id"].shape
    torch.Size([2, 4])
    >>> pooled.values().sum().backward()
    >>> len(bags.tables["user_id"])
    2
    """

    def __init__(self, features: Sequence[Feature], optimizer: Optimizer, *, seed: int = 0) -> None:
        """Make one empty table for each feature; start values are pure functions of (seed, feature, fid).

        Raises:
            ValueError: no feature, or two of one name.
        """
        super().__init__()
        names = [feature.name for feature in features]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"features must be at least one, of different names, got {names}")
        self.features = tuple(features)
        self.now_s = 0
        self.rows_touched = 0
        self.tables = {
            feature.name: feature.make_table(optimizer, seed + index) for index, feature in enumerate(features) if feature.table is None
        }
        for feature in features:
            if feature.table is not None and feature.table not in self.tables:
                raise ValueError(f"table of feature {feature.name!r} must be one of {sorted(self.tables)}, got {feature.table!r}")
        tables = [self.tables[feature.table or feature.name] for feature in features]
        self._names = names
        self._dims = [table.dim * (feature.length or 1) for feature, table in zip(features, tables, strict=True)]
        self._pooling = [-feature.length if feature.pooling == "first" else int(feature.pooling == "mean") for feature in features]
        self._cores = [table.core for table in tables]
        # Autograd calls a function's backward only where an input asks for a gradient.
        self._ask = torch.zeros(0, requires_grad=True)

    @staticmethod
    def of(schema: Schema, config: SparseOptimizerConfig, seed: int, encoding: Encoding) -> EmbeddingBags:
        """Return the bags of a job's schema; drains pack their rows in `encoding`."""
        optimizer = optimizer_from(config)
        return EmbeddingBags([_feature(feature, optimizer, encoding) for feature in schema.features], optimizer, seed=seed)

    def forward(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled rows of all features, (B, D), in the order of the features.

        Where the tensor has weights, rows are multiplied by them before they are pooled; the weights get no gradient.

        Raises:
            ValueError: a feature is missing, or ids are not int64.
        """
        if kjt.keys() != self._names:
            present = kjt.keys()
            missing = [name for name in self._names if name not in present]
            if missing:
                raise ValueError(f"the KeyedJaggedTensor must have features {self._names}, got {present} without {missing}")
            kjt = kjt.permute([kjt.keys().index(name) for name in self._names])
        values = kjt.values()
        if values.dtype != torch.int64:
            raise ValueError(f"values of the KeyedJaggedTensor must be int64, got {values.dtype}")
        offsets = kjt.offsets().to(torch.int64).contiguous()
        learning = self.training and torch.is_grad_enabled()
        weights = kjt.weights_or_none()
        scales = None if weights is None else weights.detach().to(torch.float32).contiguous()
        pooled: Tensor = _PooledLookup.apply(self._ask, self, values.contiguous(), offsets, scales, kjt.stride(), learning)
        return KeyedTensor(self._names, self._dims, pooled, key_dim=1)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all tables."""
        for table in self.tables.values():
            table.set_lr(lr)

    def evict(self, now_s: int) -> dict[str, Int64Array]:
        """Let go of expired rows; return their fids by feature."""
        return {name: table.evict(now_s) for name, table in self.tables.items()}

    def save(self, directory: Path) -> None:
        """Write each table to `<feature>.table` in `directory`."""
        for saving in self.start_saving(directory):
            saving.finish()
            saving.commit()

    def start_saving(self, directory: Path) -> list[TableSaving]:
        """Begin the same while the tables go on changing: a snapshot under way of each."""
        return [table.start_saving(directory / f"{name}.table") for name, table in self.tables.items()]

    def restore(self, directory: Path) -> None:
        """Fill the tables, which must be empty, from what `save` wrote."""
        for name, table in self.tables.items():
            table.restore_from(directory / f"{name}.table")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("EmbeddingBags cannot be pickled or copied: use save and restore")


def _feature(config: FeatureConfig, optimizer: Optimizer, encoding: Encoding) -> Feature:
    """Return the feature that the settings describe."""
    sketch = {"sketch_bytes": config.sketch_bytes, "window_s": config.sketch_window_s}
    admission = Admission(config.admission, **{name: value for name, value in sketch.items() if value is not None})
    budget = MemoryBudget(config.budget_bytes, config.eviction, config.half_life_s) if config.budget_bytes else None
    return Feature(
        config.name,
        config.dim,
        config.pooling,
        slices=(Slice("weights", config.dim, optimizer, config.initializer, config.init_scale, encoding),),
        admit_after=config.admit_after,
        admission=admission,
        ttl_s=config.ttl_s,
        budget=budget,
    )


class _PooledLookup(torch.autograd.Function):
    """Look-up and pooling in the core; its backward updates the rows and asks for no gradient in turn."""

    @staticmethod
    def forward(
        ctx: Any, ask: Tensor, bags: EmbeddingBags, fids: Tensor, offsets: Tensor, scales: Tensor | None, num_rows: int, learning: bool
    ) -> Tensor:
        weights = None if scales is None else scales.numpy()
        pooled = torch.empty(num_rows, sum(bags._dims))  # (B, D)
        rows: UInt32Array = np.empty(len(fids), np.uint32)
        _core.pooled_forward(bags._cores, fids.numpy(), offsets.numpy(), weights, bags._pooling, bags.now_s, learning, pooled.numpy(), rows)
        ctx.bags, ctx.rows, ctx.offsets, ctx.weights = bags, rows, offsets, weights
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        bags: EmbeddingBags = ctx.bags
        gradient = gradients[0].to(torch.float32).contiguous()
        for table in bags.tables.values():
            table.follow_schedules()
        offsets = ctx.offsets.numpy()
        bags.rows_touched = _core.pooled_backward(bags._cores, ctx.rows, offsets, ctx.weights, bags._pooling, gradient.numpy())
        return None, None, None, None, None, None, None
