"""Embedding tables of a replica: an id map for each feature in front of one store of packed rows.

An update writes new bytes into free rows, points the id map to them, and retires the old rows until no reader can hold them. So a reader
sees a row before or after an update, never half of each. Letters: n fids, F features, B rows of a batch, D = dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monolith_py._core import NO_ROW, IdMap
from monolith_py.config import FeatureConfig
from monolith_py.data.columns import Int64Array
from monolith_py.errors import TableFull, WireError
from monolith_py.model.batch import Batch
from monolith_py.sync import ByteArray, RowEncoding, digest_rows, digest_tables, pack_rows, row_bytes, unpack_rows
from monolith_serving.replica.reclaim import EpochReclaimer
from monolith_serving.replica.row_store import RowStore

_MAX_ROWS = 2**31 - 1


class ReplicaTable:
    """Rows of all sparse features of a job, all of one dim. One thread may assign and evict while any number look up."""

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        encoding: RowEncoding,
        device: torch.device,
        capacity: int = 1024,
        max_rows: int = _MAX_ROWS,
    ) -> None:
        """Make an empty table with room for `capacity` rows, which grows up to `max_rows`.

        Raises:
            ValueError: features have different dims.
        """
        dims = {feature.dim for feature in features}
        if len(dims) != 1:
            raise ValueError(f"features.dim must be the same for all features, got {sorted(dims)}")
        self._dim, self.encoding, self._device = dims.pop(), encoding, device
        self._names = tuple(feature.name for feature in features)
        self._maps = {name: IdMap() for name in self._names}
        self._digests = dict.fromkeys(self._names, 0)
        self._mean = [index for index, feature in enumerate(features) if feature.pooling == "mean"]
        self._store = RowStore(self._dim, encoding, len(self._names), device, capacity)
        self._max_rows = max_rows
        self._free = np.empty(0, np.int64)
        self._num_used = 0  # row ids below this have been used
        self._reclaimer = EpochReclaimer()

    @property
    def num_rows(self) -> int:
        """Return the number of fids with a row, over all features."""
        return sum(len(id_map) for id_map in self._maps.values())

    @property
    def num_bytes(self) -> int:
        """Return the memory of the rows in bytes."""
        return self._store.num_bytes

    @property
    def digest(self) -> int:
        """Return the digest of all rows, 64 bits: `monolith_py.sync.digest`."""
        return digest_tables(self._digests)

    def assign(self, feature: str, fids: Int64Array, rows: ByteArray, encoding: RowEncoding) -> None:
        """Assign packed rows to `fids` int64 (n,); rows of another encoding than the table's are packed again.

        Raises:
            WireError: there is no such feature, or rows have another dim.
            TableFull: no row id is free.
        """
        id_map = self._map(feature)
        if rows.shape[1] != row_bytes(self._dim, encoding):
            raise WireError(f"rows of table {feature!r} must have dim {self._dim}, got {rows.shape[1]} bytes of {encoding.value}")
        if encoding is not self.encoding:
            rows = pack_rows(unpack_rows(rows, self._dim, encoding), self.encoding)
        fresh = self._allocate(len(fids))
        self._store.write(fresh, rows)
        old = np.empty(len(fids), np.uint32)
        id_map.assign(fids, fresh.astype(np.uint32), old)
        self._retire(feature, fids, old)
        self._add(feature, digest_rows(np.ascontiguousarray(fids), np.ascontiguousarray(rows), self.encoding))

    def evict(self, feature: str, fids: Int64Array) -> None:
        """Remove the rows of `fids`; a fid without a row is skipped.

        Raises:
            WireError: there is no such feature.
        """
        id_map = self._map(feature)
        old = np.empty(len(fids), np.uint32)
        id_map.erase(fids, old)
        self._retire(feature, fids, old)

    def lookup(self, batch: Batch) -> Tensor:
        """Return pooled rows float32 (B, F * D), in the order of the features; a fid without a row reads zeros."""
        assert batch.names == self._names, (batch.names, self._names)
        num_rows = batch.num_rows
        offsets = np.zeros(len(batch.lengths) + 1, np.int32)
        np.cumsum(batch.lengths, out=offsets[1:])
        ids = np.empty(len(batch.fids), np.uint32)
        bounds = offsets[::num_rows].tolist()
        with self._reclaimer.reading():
            for index, id_map in enumerate(self._maps.values()):
                start, stop = bounds[index], bounds[index + 1]
                if stop > start:
                    id_map.find(batch.fids[start:stop], ids[start:stop])
            pooled = self._store.pool(ids.view(np.int32), offsets)  # NO_ROW is -1 as int32
        if self._mean:
            self._divide(pooled, batch)
        return pooled

    def _divide(self, pooled: Tensor, batch: Batch) -> None:
        """Divide the sums of features with mean pooling by the length of their bags, fids without a row included."""
        by_feature = pooled.view(batch.num_rows, len(self._names), self._dim)  # (B, F, D)
        lengths = np.maximum(batch.lengths.reshape(len(self._names), batch.num_rows), 1)  # (F, B)
        for index in self._mean:
            by_feature[:, index] /= torch.from_numpy(lengths[index]).to(self._device)[:, None]

    def _map(self, feature: str) -> IdMap:
        if feature not in self._maps:
            raise WireError(f"table must be one of {list(self._names)}, got {feature!r}")
        return self._maps[feature]

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

    def _retire(self, feature: str, fids: Int64Array, old: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
        """Retire the rows `old` that the fids had, `NO_ROW` for none."""
        had = old != NO_ROW
        ids = old[had].astype(np.int64)
        if len(ids):
            self._add(feature, -digest_rows(np.ascontiguousarray(fids[had]), self._store.read(ids), self.encoding))
        self._reclaimer.retire(ids)

    def _add(self, feature: str, digest: int) -> None:
        self._digests[feature] = (self._digests[feature] + digest) % (1 << 64)
