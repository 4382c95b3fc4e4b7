"""One progressive pass over a stream with a variant's rows: the same loop, model and optimizer as for towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from intervals import resampled_aucs
from passes import ENTRY_BYTES, row_bytes
from pool_atoms import AtomBags
from pool_variants import PoolVariant, adagrad_of
from streams import FloatArray
from tower_passes import TowerPass
from tower_streams import TowerStream
from tower_variants import DENSE

from monolith_py import _core
from monolith_py.model.batch import Batch
from monolith_py.table import EmbeddingBags
from monolith_py.training import auc, normalized_entropy


@dataclass(frozen=True)
class PoolOutcome:
    """Outcome of one pass; rows and bytes are the most at one time, of all features."""

    variant: str
    seed: int
    aucs: tuple[float, ...]  # of each span of the stream
    normalized_entropy: float
    resampled: FloatArray  # (R,) AUC of the last span for each resample of the users
    rows: int
    used_bytes: float
    pointer_bytes: float  # the same with a pointer to each atom in place of a mask
    num_swapped: int


class PoolPass(TowerPass):
    """A pass that knows the memory of its rows."""

    def __init__(self, stream: TowerStream, variant: PoolVariant, seed: int) -> None:
        super().__init__(stream, DENSE, seed)
        self._dim, self.pool = variant.dim, None
        if variant.pool is not None:
            self.pool = AtomBags(self._bags, stream.features, variant.pool, adagrad_of(stream), seed)
            self._bags = cast(EmbeddingBags, self.pool)
        self.rows, self.used_bytes, self.pointer_bytes = 0, 0.0, 0.0

    def _step(self, batch: Batch, labels: torch.Tensor, number: int) -> FloatArray:
        predictions = super()._step(batch, labels, number)
        rows, *num_bytes = self._memory()
        self.rows = max(self.rows, rows)
        self.used_bytes, self.pointer_bytes = max(self.used_bytes, num_bytes[0]), max(self.pointer_bytes, num_bytes[1])
        return predictions

    def _memory(self) -> tuple[int, float, float]:
        """Return the rows now, and their bytes as a budget counts them, with masks and with pointers."""
        if self.pool is not None:
            return self.pool.num_rows, self.pool.used_bytes(pointers=False), self.pool.used_bytes(pointers=True)
        stats = [table.stats() for table in self._bags.tables.values()]
        rows = sum(table.rows for table in stats)
        num_bytes = rows * row_bytes(self._dim) + sum(table.candidates for table in stats) * ENTRY_BYTES
        return rows, num_bytes, num_bytes


def learn(stream: TowerStream, variant: PoolVariant, seed: int) -> PoolOutcome:
    """Return what one pass of `variant` gives, on one thread."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    stream = variant.stream(stream)
    one = PoolPass(stream, variant, seed)
    predictions = one.run()
    spans = [slice(start, end) for _, start, end in stream.spans]
    return PoolOutcome(
        variant.name,
        seed,
        tuple(auc(stream.labels[span], predictions[span]) for span in spans),
        normalized_entropy(stream.labels[spans[-1]], predictions[spans[-1]]),
        resampled_aucs(stream.labels[spans[-1]], predictions[spans[-1]], stream.groups[spans[-1]]),
        one.rows,
        one.used_bytes,
        one.pointer_bytes,
        0 if one.pool is None else one.pool.num_swapped,
    )
