"""Pooled embedding look-up as a torch module with TorchRec's types: KeyedJaggedTensor in, KeyedTensor out; backward updates the rows.

torchrec takes 190 MB and a second to load, so `forward` imports it: replicas and commands never load it.
Letters: B rows of the batch, F features, n fids over all features, D the sum of the features' dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from monolith_py import _core
from monolith_py.config import FeatureConfig, SparseOptimizerConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import PoisonedBatch, TableFull
from monolith_py.table.admission import EXACT_COUNT, Admission, MemoryBudget
from monolith_py.table.embedding_table import EmbeddingTable
from monolith_py.table.optimizers import Optimizer, optimizer_from
from monolith_py.table.saving import TableSaving, table_file
from monolith_py.table.slices import Encoding, Initializer, Slice
from monolith_py.table.views import FloatArray, Int64Array, UInt32Array

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


@dataclass(frozen=True)
class Feature:
    """A sparse feature: pooling of its bags, and settings of its table as in `EmbeddingTable`.

    `pooling` is "sum", "mean" (over all fids of the bag, also those without a row), or "first": the rows of the first `length` fids side
    by side, padded with zeros. A feature with `table` shares the table of the feature of that name; its own table settings have no effect.
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
        """Return an empty table of the feature's settings."""
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
    """One table for each feature; forward looks up and pools the rows, backward updates them.

    In training mode, a forward that builds a graph counts sightings and inserts rows; any other forward only looks up. `now_s` is the
    event time of the batch in seconds, used by admission and expiry. The rows are not parameters: a torch optimizer does not see them
    and `state_dict` does not hold them; use `save` and `restore`. Gradients of the rows must be below 2^48, so that their squares are
    finite.

    >>> from monolith_py.table import Sgd
    >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
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
        """Make one empty table for each feature; start values are a pure function of (`seed`, feature, fid).

        Raises:
            ValueError: there is no feature, two have the same name, or `table` of one names no feature with a table.
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
        # Autograd calls the backward of a function only if an input requires a gradient.
        self._grad_anchor = torch.zeros(0, requires_grad=True)

    @staticmethod
    def of(schema: Schema, config: SparseOptimizerConfig, seed: int, encoding: Encoding) -> EmbeddingBags:
        """Return the bags of a job's schema; drains pack their rows in `encoding`."""
        optimizer = optimizer_from(config.for_features(len(schema.features)))
        return EmbeddingBags([_feature(feature, optimizer, encoding) for feature in schema.features], optimizer, seed=seed)

    def forward(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled rows of all features, (B, D), in the order of the features.

        Weights of the tensor, if it has some, multiply the rows before pooling; they get no gradient. Backward raises PoisonedBatch
        for a gradient that is not finite or too large, and changes no row.

        Raises:
            ValueError: a feature is missing, or fids are not int64.
            TableFull: a table would have more than 4,294,967,294 rows.
        """
        from torchrec.sparse.jagged_tensor import KeyedTensor

        if kjt.keys() != self._names:
            present = kjt.keys()
            missing = [name for name in self._names if name not in present]
            if missing:
                raise ValueError(f"the KeyedJaggedTensor must have features {self._names}, got {present} without {missing}")
            kjt = kjt.permute([kjt.keys().index(name) for name in self._names])
        values = kjt.values()
        if values.dtype != torch.int64:
            raise ValueError(f"values of the KeyedJaggedTensor must be int64, got {values.dtype}")
        weights = kjt.weights_or_none()
        lookup = _Lookup(
            bags=self,
            num_rows=kjt.stride(),
            fids=values.contiguous(),
            offsets=kjt.offsets().to(torch.int64).contiguous(),
            weights=None if weights is None else weights.detach().to(torch.float32).contiguous().numpy(),
            inserts=self.training and torch.is_grad_enabled(),
        )
        pooled: Tensor = _PooledLookup.apply(self._grad_anchor, lookup)
        return KeyedTensor(self._names, self._dims, pooled, key_dim=1)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all tables."""
        for table in self.tables.values():
            table.set_lr(lr)

    def evict(self, now_s: int) -> dict[str, Int64Array]:
        """Evict expired rows; return their fids by table."""
        return {name: table.evict(now_s) for name, table in self.tables.items()}

    def save(self, directory: Path) -> None:
        """Write a snapshot of each table to `<feature>.table` in `directory`.

        Raises:
            CheckpointError: a file cannot be written.
        """
        for saving in self.start_saving(directory):
            saving.finish()
            saving.commit()

    def start_saving(self, directory: Path) -> list[TableSaving]:
        """Start a snapshot of each table that is written while the tables change."""
        return [table.start_saving(table_file(directory, name)) for name, table in self.tables.items()]

    def restore(self, directory: Path) -> None:
        """Restore the tables, which must be empty, from the snapshots of `save`.

        Raises:
            CheckpointError: a file is absent, torn, damaged or of other settings.
        """
        for name, table in self.tables.items():
            table.restore_from(table_file(directory, name))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("EmbeddingBags cannot be pickled or copied: use save and restore")


def _feature(config: FeatureConfig, optimizer: Optimizer, encoding: Encoding) -> Feature:
    """Return the feature of the settings."""
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


@dataclass(frozen=True)
class _Lookup:
    """One look-up of a batch in the tables of all features."""

    bags: EmbeddingBags
    num_rows: int  # B
    fids: Tensor  # int64 (n,)
    offsets: Tensor  # int64 (F * B + 1,)
    weights: FloatArray | None  # (n,)
    inserts: bool  # count sightings and insert rows


class _PooledLookup(torch.autograd.Function):
    """Look-up and pooling in the core; backward updates the rows and returns no gradient."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, lookup: _Lookup) -> Tensor:
        bags, fids, offsets = lookup.bags, lookup.fids.numpy(), lookup.offsets.numpy()
        pooled = torch.empty(lookup.num_rows, sum(bags._dims))  # (B, D)
        rows: UInt32Array = np.empty(len(fids), np.uint32)
        out = pooled.numpy()
        try:
            _core.pooled_forward(bags._cores, fids, offsets, lookup.weights, bags._pooling, bags.now_s, lookup.inserts, out, rows)
        except _core.TableFull as error:
            raise TableFull(str(error)) from None
        ctx.lookup, ctx.rows = lookup, rows
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        lookup: _Lookup = ctx.lookup
        bags = lookup.bags
        gradient = gradients[0].to(torch.float32).contiguous().numpy()
        for table in bags.tables.values():
            table.follow_schedules()
        offsets = lookup.offsets.numpy()
        try:
            bags.rows_touched = _core.pooled_backward(bags._cores, ctx.rows, offsets, lookup.weights, bags._pooling, gradient)
        except _core.NotFinite as error:
            raise PoisonedBatch(str(error)) from None
        return None, None
