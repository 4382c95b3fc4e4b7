"""Rows of a replica in FBGEMM's inference table, with an id map for each feature in front: the store of CUDA, and the oracle of the core.

An update writes new bytes into free rows, points the id map to them, and retires the old rows until no reader can hold them. So a reader
sees a row before or after an update, never half of each. Letters: n fids, F features, B rows of a batch, D = dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monolith_py._core import NO_ROW, IdMap
from monolith_py.config import FeatureConfig
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import TableFull
from monolith_py.model.batch import Batch
from monolith_py.sync import ByteArray, RowEncoding, digest_rows, digest_tables
from monolith_serving.replica.device import Device
from monolith_serving.replica.reclaim import EpochReclaimer
from monolith_serving.replica.row_store import RowStore

_FIRST_ROWS = 64


class FbgemmRows:
    """Rows of all features, of one dim. One thread may assign and evict while any number look up."""

    def __init__(self, features: Sequence[FeatureConfig], encoding: RowEncoding, max_rows: int, device: Device) -> None:
        """Make an empty store.

        Raises:
            ValueError: features have different dims.
        """
        dims = {feature.dim for feature in features}
        if len(dims) != 1:
            raise ValueError(f"features.dim must be the same for all features with FBGEMM, got {sorted(dims)}")
        self._dim, self._encoding, self._device = dims.pop(), encoding, torch.device(device.type)
        self._names = [feature.name for feature in features]
        self._maps = [IdMap() for _ in features]
        self._digests = [0] * len(features)
        self._mean = [index for index, feature in enumerate(features) if feature.pooling == "mean"]
        self._store = RowStore(self._dim, encoding, len(features), self._device, min(_FIRST_ROWS, max_rows))
        self._max_rows = max_rows
        self._free = np.empty(0, np.int64)
        self._num_used = 0  # row ids below this have been used
        self._reclaimer = EpochReclaimer()

    @property
    def num_rows(self) -> int:
        """Return the number of fids with a row, over all features."""
        return sum(map(len, self._maps))

    @property
    def num_bytes(self) -> int:
        """Return the memory of the rows in bytes."""
        return self._store.num_bytes

    @property
    def digest(self) -> int:
        """Return the digest of all rows, 64 bits."""
        return digest_tables(dict(zip(self._names, self._digests, strict=True)))

    def assign(self, feature: int, fids: Int64Array, rows: ByteArray) -> None:
        """Assign packed rows uint8 (n, R) to `fids` int64 (n,).

        Raises:
            TableFull: no row id is free.
        """
        fresh = self._allocate(len(fids))
        self._store.write(fresh, rows)
        old = np.empty(len(fids), np.uint32)
        self._maps[feature].assign(fids, fresh.astype(np.uint32), old)
        self._add(feature, digest_rows(fids, rows, self._encoding))
        self._retire_old(feature, fids, old)

    def insert_all(self, feature: int, fids: Int64Array, rows: ByteArray) -> None:
        """Do the same.

        Raises:
            TableFull: no row id is free.
        """
        self.assign(feature, fids, rows)

    def evict(self, feature: int, fids: Int64Array) -> None:
        """Remove the rows of `fids`; a fid without a row is skipped."""
        old = np.empty(len(fids), np.uint32)
        self._maps[feature].erase(fids, old)
        self._retire_old(feature, fids, old)

    def pool(self, batch: Batch) -> FloatArray:
        """Return the result of `lookup` on the CPU."""
        pooled: FloatArray = self.lookup(batch).cpu().numpy()
        return pooled

    def lookup(self, batch: Batch) -> Tensor:
        """Return pooled rows float32 (B, F * D)."""
        num_rows = batch.num_rows
        offsets = np.zeros(len(batch.lengths) + 1, np.int32)
        np.cumsum(batch.lengths, out=offsets[1:])
        ids = np.empty(len(batch.fids), np.uint32)
        bounds = offsets[::num_rows].tolist()
        with self._reclaimer.reading():
            for index, id_map in enumerate(self._maps):
                start, stop = bounds[index], bounds[index + 1]
                if stop > start:
                    id_map.find(batch.fids[start:stop], ids[start:stop])
            pooled = self._store.pool(ids.view(np.int32), offsets)  # NO_ROW is -1 as int32
        if self._mean:
            self._divide(pooled, batch)
        return pooled

    def _divide(self, pooled: Tensor, batch: Batch) -> None:
        """Divide the sums of features with mean pooling by the length of their bags, fids without a row included."""
        by_feature = pooled.view(batch.num_rows, len(self._maps), self._dim)  # (B, F, D)
        lengths = np.maximum(batch.lengths.reshape(len(self._maps), batch.num_rows), 1)  # (F, B)
        for index in self._mean:
            by_feature[:, index] /= torch.from_numpy(lengths[index]).to(self._device)[:, None]

    def _allocate(self, num_rows: int) -> Int64Array:
        """Return `num_rows` row ids that no reader can hold.

        Raises:
            TableFull: not enough row ids are free.
        """
        if len(self._free) < num_rows:
            self._free = np.concatenate([self._free, self._reclaimer.reclaim()])
        num_new = max(0, num_rows - len(self._free))
        if self._num_used + num_new > self._max_rows:
            raise TableFull(f"rows of the replica must be at most {self._max_rows}, got {self._num_used} and {num_new} more")
        if self._num_used + num_new > self._store.capacity:
            self._store.grow(min(self._max_rows, max(2 * self._store.capacity, self._num_used + num_new)))
        new = np.arange(self._num_used, self._num_used + num_new, dtype=np.int64)
        self._num_used += num_new
        kept = len(self._free) - (num_rows - num_new)
        reused, self._free = self._free[kept:], self._free[:kept]
        return np.concatenate([reused, new])

    def _retire_old(self, feature: int, fids: Int64Array, old: npt.NDArray[np.uint32]) -> None:
        """Retire the rows `old` that the fids had, `NO_ROW` for none."""
        had = old != NO_ROW
        ids = old[had].astype(np.int64)
        if len(ids):
            self._add(feature, -digest_rows(np.ascontiguousarray(fids[had]), self._store.read(ids), self._encoding))
        self._reclaimer.retire(ids)

    def _add(self, feature: int, digest: int) -> None:
        self._digests[feature] = (self._digests[feature] + digest) % (1 << 64)
