"""Pooled embedding look-up as a torch module with TorchRec's types: KeyedJaggedTensor in, KeyedTensor out; backward updates the rows.

torchrec takes 190 MB and a second to load, so `forward` imports it: replicas and commands never load it.
Letters: B rows of the batch, F features, n fids over all features, D the sum of the features' dims.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Tensor, nn

from monolith_py.config import SparseOptimizerConfig
from monolith_py.data.schema import Schema
from monolith_py.table import bags_saving
from monolith_py.table.arguments import number, seconds
from monolith_py.table.embedding_table import EmbeddingTable
from monolith_py.table.feature import Feature, feature_from, table_seed
from monolith_py.table.jagged_input import checked_input
from monolith_py.table.optimizers import Optimizer, optimizer_from
from monolith_py.table.pooled_lookup import Lookup, PooledLookup, RowSteps
from monolith_py.table.saving import TableSaving, table_file
from monolith_py.table.slices import Encoding
from monolith_py.table.views import Int64Array

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor


class EmbeddingBags(nn.Module):
    """One table for each feature; forward looks up and pools the rows, backward updates them.

    In training mode, a forward that builds a graph counts sightings and inserts rows, and the end of a backward pass takes one optimizer
    step with the gradients of all look-ups in it. `eval()`, `torch.no_grad()` and `requires_grad_(False)` only look up. With
    `defers_steps` gradients add up over backward passes until `step` is called: for gradient accumulation, clipping and scaled losses.
    Rows learn from the gradient as it is: a sum over examples, or their mean with a learning rate that much larger.

    `now_s` is the event time of the batch in seconds, used by admission and expiry: set it, or give it to `forward`. The rows are no
    parameters, so a torch optimizer does not see them; `state_dict` holds them as bytes, `save` and `restore` use files. Do not recompute
    the bags by `torch.utils.checkpoint`: a second forward counts its fids again. Gradients of the rows must be below 2^48, so that their
    squares are finite. Tables live in one process.

    >>> from monolith_py.table import Sgd
    >>> from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    >>> bags = EmbeddingBags([Feature("user_id", dim=4)], optimizer=Sgd(lr=1.0))
    >>> kjt = KeyedJaggedTensor.from_lengths_sync(keys=["user_id"], values=torch.tensor([7, 8, 7]), lengths=torch.tensor([1, 2]))
    >>> pooled = bags(kjt, now_s=1_700_000_000)
    >>> pooled["user_id"].shape
    torch.Size([2, 4])
    >>> pooled.values().sum().backward()
    >>> len(bags.tables["user_id"])
    2
    """

    def __init__(self, features: Sequence[Feature], optimizer: Optimizer, *, seed: int = 0, defers_steps: bool = False) -> None:
        """Make one empty table for each feature; start values are a pure function of (`seed`, feature, fid).

        Raises:
            ValueError: there is no feature, two have the same name, or `table` of one names no feature with a table of its `dim`.
        """
        super().__init__()
        names = [feature.name for feature in features]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"features must be at least one, of different names, got {names}")
        self.features = tuple(features)
        self._now_s: int | None = None
        self._optimizer, self._seeds = optimizer, {feature.name: table_seed(seed, feature.name) for feature in features}
        self.tables = {feature.name: self._make_table(feature) for feature in features if feature.table is None}
        for feature in features:
            if feature.table is not None:
                self._check_shared(feature)
        self._names = names
        self._dims = [self._table(feature).dim * (feature.length or 1) for feature in features]
        self._pooling = [-feature.length if feature.pooling == "first" else int(feature.pooling == "mean") for feature in features]
        self._frozen: set[str] = set()
        self._steps = RowSteps(defers_steps, self._follow_schedules)
        # Autograd calls the backward of a function only if an input requires a gradient. A parameter, so that `requires_grad_` of a
        # module around this one freezes it.
        self.anchor = nn.Parameter(torch.zeros(0))

    @staticmethod
    def of(schema: Schema, config: SparseOptimizerConfig, seed: int, encoding: Encoding) -> EmbeddingBags:
        """Return the bags of a job's schema; drains pack rows in the encoding of their feature, or in `encoding`."""
        num = len(schema.features)
        optimizer = optimizer_from(config.for_features(num))
        rules = [optimizer_from(one.optimizer.for_features(num)) if one.optimizer else optimizer for one in schema.features]
        features = [feature_from(one, rule, encoding) for one, rule in zip(schema.features, rules, strict=True)]
        bags = EmbeddingBags(features, optimizer, seed=seed)
        return bags.requires_grad_(False, [feature.name for feature in schema.features if feature.frozen])

    @property
    def now_s(self) -> int:
        """Return the event time of the batch in seconds, 0 before it is set."""
        return self._now_s or 0

    @now_s.setter
    def now_s(self, now_s: float) -> None:
        self._now_s = seconds(now_s)

    @property
    def rows_touched(self) -> int:
        """Return the number of rows that the last step updated."""
        return self._steps.rows_touched

    @property
    def rows_dropped(self) -> int:
        """Return the number of positions in the last step whose fid lost its row between forward and backward: they learnt nothing."""
        return self._steps.rows_dropped

    def forward(self, kjt: KeyedJaggedTensor, now_s: float | None = None) -> KeyedTensor:
        """Return the pooled rows of all features, (B, D), in the order of the features; `now_s` sets the attribute of that name.

        Weights of the tensor, if it has some, multiply the rows before pooling; they get their gradient. Backward raises PoisonedBatch
        for a gradient that is not finite or too large, and changes no row.

        Raises:
            ValueError: a feature is missing or given twice, fids are not int64 (n,) on the CPU, weights are not finite, or the batch has a
                size for each feature or inverse indices.
            RuntimeError: torch.distributed runs several processes: their tables would diverge.
            TableFull: a table would have more than 4,294,967,294 rows.
        """
        from torchrec.sparse.jagged_tensor import KeyedTensor

        if now_s is not None:
            self.now_s = now_s
        kjt = checked_input(kjt, self._names)
        weights: Tensor | None = kjt.weights_or_none()
        builds_graph = torch.is_grad_enabled()
        may_learn = self.training and builds_graph and self.anchor.requires_grad
        learns = [may_learn and name not in self._frozen for name in self._names]
        if may_learn:
            self._check_training()
        self._steps.drop_failed()
        lookup = Lookup(
            cores=[self._table(feature).core for feature in self.features],
            pooling=self._pooling,
            learns=learns,
            width=sum(self._dims),
            num_rows=kjt.stride(),
            offsets=kjt.offsets().to(torch.int64).contiguous().numpy(),
            now_s=self.now_s,
            steps=self._steps,
        )
        anchor = self.anchor if any(learns) else None
        pooled: Tensor = PooledLookup.apply(anchor, kjt.values().contiguous(), weights, lookup)
        return KeyedTensor(self._names, self._dims, pooled, key_dim=1)

    def step(self, scale: float = 1.0) -> None:
        """Take the optimizer step of `defers_steps` with the sum of the gradients since the last one, times `scale`.

        Raises:
            PoisonedBatch: a gradient is not finite or too large; no row was changed.
            ValueError: steps are not deferred, or `scale` is not finite.
        """
        if not self._steps.defers:
            raise ValueError("step needs EmbeddingBags with defers_steps=True: each backward pass takes its own step")
        if not math.isfinite(number("scale", scale)):
            raise ValueError(f"scale must be finite, got {scale!r}")
        self._steps.step(scale)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients that wait for `step`."""
        self._steps.clear()
        super().zero_grad(set_to_none)

    def requires_grad_(self, requires_grad: bool = True, features: Collection[str] | None = None) -> Self:
        """Freeze or release all features, or those of the given names: a frozen one counts, inserts and updates nothing.

        Raises:
            ValueError: a name is of no feature.
        """
        if features is None:
            self._frozen.clear()
            return super().requires_grad_(requires_grad)
        if unknown := sorted(set(features) - set(self._names)):
            raise ValueError(f"features must be of {self._names}, got {unknown}")
        self._frozen = self._frozen - set(features) if requires_grad else self._frozen | set(features)
        return self

    @property
    def frozen_tables(self) -> set[str]:
        """Return the names of the tables whose features are all frozen by name."""
        return self.tables.keys() - {one.table or one.name for one in self.features if one.name not in self._frozen}

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all tables."""
        for table in self.tables.values():
            table.set_lr(lr)

    def evict(self, now_s: float) -> dict[str, Int64Array]:
        """Evict expired rows; return their fids by table."""
        return {name: table.evict(now_s) for name, table in self.tables.items()}

    def save(self, directory: str | Path) -> None:
        """Write a snapshot of each table to `<feature>.table` in `directory`, all or none, and a list of them.

        Raises:
            CheckpointError: a file cannot be written; those of an earlier call are unchanged.
        """
        bags_saving.save(self.tables, Path(directory))

    def start_saving(self, directory: str | Path) -> list[TableSaving]:
        """Start a snapshot of each table that is written while the tables change."""
        return [table.start_saving(table_file(Path(directory), name)) for name, table in self.tables.items()]

    def start_increments(self, files: Mapping[str, Path]) -> list[TableSaving]:
        """Start an increment of each table, written to its file in `files`; `EmbeddingTable.start_saving` documents the errors."""
        return [table.start_saving(files[name], increment=True) for name, table in self.tables.items()]

    def restore(self, directory: str | Path) -> None:
        """Restore the tables, which must be empty, from the snapshots of `save`, all or none.

        Raises:
            CheckpointError: a file is absent, torn, damaged, of other settings or of another call of `save`, or a table is not empty.
        """
        bags_saving.restore(self.tables, self._make_tables(), Path(directory))

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the snapshot of each table, uint8 (bytes,), for `state_dict`."""
        return bags_saving.to_tensors(self.tables)

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace the content of the tables by the snapshots in `state`, for `load_state_dict`.

        Raises:
            CheckpointError: a table is missing, or a snapshot is damaged or of other settings.
        """
        bags_saving.from_tensors(self.tables, self._make_tables(), state)

    def extra_repr(self) -> str:
        """Return the text in torch's `repr`: each table with its dim and rows."""
        return "\n".join(f"{name}: dim={table.dim}, rows={len(table)}" for name, table in self.tables.items())

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("EmbeddingBags cannot be pickled or copied: use save and restore, or state_dict")

    def table_of(self, feature: str) -> EmbeddingTable | None:
        """Return the table of a feature, also one that it shares, or None for a feature of another model."""
        return next((self._table(one) for one in self.features if one.name == feature), None)

    @property
    def sharing(self) -> dict[str, str]:
        """Return the features without a table of their own, each with the feature whose table it shares."""
        return {feature.name: feature.table for feature in self.features if feature.table is not None}

    def _check_shared(self, feature: Feature) -> None:
        if feature.table not in self.tables:
            raise ValueError(f"table of feature {feature.name!r} must be one of {sorted(self.tables)}, got {feature.table!r}")
        if feature.dim not in (dim := self.tables[feature.table].dim, Feature.dim):
            raise ValueError(f"dim of feature {feature.name!r} must be that of table {feature.table!r}, {dim}, got {feature.dim}")

    def _table(self, feature: Feature) -> EmbeddingTable:
        return self.tables[feature.table or feature.name]

    def _make_table(self, feature: Feature) -> EmbeddingTable:
        return feature.make_table(self._optimizer, self._seeds[feature.name])

    def _make_tables(self) -> dict[str, EmbeddingTable]:
        return {feature.name: self._make_table(feature) for feature in self.features if feature.table is None}

    def _follow_schedules(self) -> None:
        for table in self.tables.values():
            table.follow_schedules()

    def _check_training(self) -> None:
        """Refuse tables that would diverge; warn once of rows that would never expire."""
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise RuntimeError(f"EmbeddingBags must train in one process, got {distributed.get_world_size()}: their tables would diverge")
        if self._now_s is None:
            self._now_s = 0
            if timed := [feature.name for feature in self.features if feature.uses_time]:
                warnings.warn(f"now_s was never set, so rows and counts of {timed} do not age: give it to forward", stacklevel=4)
