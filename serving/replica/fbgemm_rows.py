"""Rows of a replica in FBGEMM's inference tables: the store of CUDA, and the oracle of the core.

The features of one dim and encoding share a table; in front of it is an id map for each feature.
An update writes new bytes into free rows, points the id map to them, and retires the old rows until no reader can hold them. So a reader
sees a row before or after an update, never half of each. Letters: n fids, F features, G bags of a row, B rows of a batch, D = dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    """Rows of all features. One thread may assign and evict while any number look up."""

    def __init__(self, features: Sequence[FeatureConfig], encodings: Sequence[RowEncoding], max_rows: int, device: Device) -> None:
        """Make an empty store of at most `max_rows` rows of each dim and encoding."""
        on = torch.device(device.type)
        kinds = [(feature.dim, encoding) for feature, encoding in zip(features, encodings, strict=True)]
        places = {kind: [place for place, one in enumerate(kinds) if one == kind] for kind in dict.fromkeys(kinds)}
        self._groups = [_AlikeRows([features[place] for place in group], kind[1], max_rows, on) for kind, group in places.items()]
        # Group of each feature, and its place there.
        self._place = {place: (group, at) for group, one in zip(self._groups, places.values(), strict=True) for at, place in enumerate(one)}
        owners = [self._place[place][0] for place, feature in enumerate(features) for _ in range(feature.num_rows)]
        self._bags = [np.array([owner is group for owner in owners]) for group in self._groups]  # (G,) each
        # Places of the bags' rows where those of each group lie together, in parts of equal width.
        dims = np.array([owner.dim for owner in owners])
        self._part = int(np.gcd.reduce(dims))
        starts = np.empty(len(owners), np.int64)
        together = np.concatenate([np.flatnonzero(bags) for bags in self._bags])
        starts[together] = np.cumsum(dims[together]) - dims[together]
        parts = [np.arange(start, start + dim, self._part) // self._part for start, dim in zip(starts, dims, strict=True)]
        self._order = torch.from_numpy(np.concatenate(parts)).to(on)

    @property
    def num_rows(self) -> int:
        """Return the number of fids with a row, over all features."""
        return sum(group.num_rows for group in self._groups)

    @property
    def num_bytes(self) -> int:
        """Return the memory of the rows in bytes."""
        return sum(group.num_bytes for group in self._groups)

    @property
    def digest(self) -> int:
        """Return the digest of all rows, 64 bits."""
        return digest_tables({name: digest for group in self._groups for name, digest in group.digests().items()})

    def assign(self, feature: int, fids: Int64Array, rows: ByteArray) -> None:
        """Assign packed rows uint8 (n, R) to `fids` int64 (n,).

        Raises:
            TableFull: no row id is free.
        """
        group, place = self._place[feature]
        group.assign(place, fids, rows)

    def insert_all(self, feature: int, fids: Int64Array, rows: ByteArray, *, in_background: bool = False) -> None:
        """Do the same.

        Raises:
            TableFull: no row id is free.
        """
        self.assign(feature, fids, rows)

    def evict(self, feature: int, fids: Int64Array) -> None:
        """Remove the rows of `fids`; a fid without a row is skipped."""
        group, place = self._place[feature]
        group.evict(place, fids)

    def pool(self, batch: Batch) -> FloatArray:
        """Return the result of `lookup` on the CPU."""
        pooled: FloatArray = self.lookup(batch).cpu().numpy()
        return pooled

    def lookup(self, batch: Batch) -> Tensor:
        """Return pooled rows float32 (B, sum of the bags' dims), for lengths int32 (G * B,)."""
        if len(self._groups) == 1:
            return self._groups[0].lookup(batch)
        lengths = batch.lengths.reshape(-1, batch.num_rows)  # (G, B)
        num_fids = lengths.sum(axis=1)
        pooled = [
            group.lookup(replace(batch, fids=batch.fids[np.repeat(bags, num_fids)], lengths=lengths[bags].ravel()))
            for group, bags in zip(self._groups, self._bags, strict=True)
        ]
        together = torch.cat(pooled, dim=1).view(batch.num_rows, -1, self._part)
        return together.index_select(1, self._order).view(batch.num_rows, -1)


class _AlikeRows:
    """Rows of features of one dim and encoding."""

    def __init__(self, features: Sequence[FeatureConfig], encoding: RowEncoding, max_rows: int, device: torch.device) -> None:
        self.dim, self._encoding, self._device = features[0].dim, encoding, device
        self._names = [feature.name for feature in features]
        self._maps = [IdMap() for _ in features]
        bags = [(feature, id_map) for feature, id_map in zip(features, self._maps, strict=True) for _ in range(feature.num_rows)]
        self._bag_maps = [id_map for _, id_map in bags]
        self._digests = [0] * len(features)
        self._mean = [index for index, (feature, _) in enumerate(bags) if feature.pooling == "mean"]
        self._store = RowStore(self.dim, encoding, len(bags), device, min(_FIRST_ROWS, max_rows))
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

    def digests(self) -> dict[str, int]:
        """Return the digest of the rows of each feature."""
        return dict(zip(self._names, self._digests, strict=True))

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

    def evict(self, feature: int, fids: Int64Array) -> None:
        """Remove the rows of `fids`; a fid without a row is skipped."""
        old = np.empty(len(fids), np.uint32)
        self._maps[feature].erase(fids, old)
        self._retire_old(feature, fids, old)

    def lookup(self, batch: Batch) -> Tensor:
        """Return pooled rows float32 (B, G * D)."""
        num_rows = batch.num_rows
        offsets = np.zeros(len(batch.lengths) + 1, np.int32)
        np.cumsum(batch.lengths, out=offsets[1:])
        ids = np.empty(len(batch.fids), np.uint32)
        bounds = offsets[::num_rows].tolist()
        with self._reclaimer.reading():
            for index, id_map in enumerate(self._bag_maps):
                start, stop = bounds[index], bounds[index + 1]
                if stop > start:
                    id_map.find(batch.fids[start:stop], ids[start:stop])
            pooled = self._store.pool(ids.view(np.int32), offsets)  # NO_ROW is -1 as int32
        if self._mean:
            self._divide(pooled, batch)
        return pooled

    def _divide(self, pooled: Tensor, batch: Batch) -> None:
        """Divide the sums of features with mean pooling by the length of their bags, fids without a row included."""
        by_bag = pooled.view(batch.num_rows, len(self._bag_maps), self.dim)  # (B, G, D)
        lengths = np.maximum(batch.lengths.reshape(len(self._bag_maps), batch.num_rows), 1)  # (G, B)
        for index in self._mean:
            by_bag[:, index] /= torch.from_numpy(lengths[index]).to(self._device)[:, None]

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
