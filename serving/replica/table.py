"""Embedding tables of a replica: packed rows of all sparse features, by name.

Two stores hold them. The core's is that of the CPU: it finds and pools rows in one pass, takes rows of any dim, and never blocks a reader.
FBGEMM's is that of CUDA, where one kernel pools all features; on the CPU it serves to compare. Letters: n fids, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from monolith_py._core import ReplicaRowsHandle
from monolith_py.config import FeatureConfig
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import WireError
from monolith_py.model.batch import Batch
from monolith_py.sync import ByteArray, RowEncoding, pack_rows, row_bytes, unpack_rows
from monolith_serving.replica.core_rows import CoreRows
from monolith_serving.replica.device import Device

if TYPE_CHECKING:
    from torch import Tensor

    from monolith_serving.replica.fbgemm_rows import FbgemmRows

Engine = Literal["auto", "core", "fbgemm"]

_MAX_ROWS = 2**31 - 1


class ReplicaTable:
    """Rows of all sparse features of a job. One thread may assign and evict while any number look up."""

    def __init__(
        self,
        features: Sequence[FeatureConfig],
        encoding: RowEncoding,
        device: Device,
        max_rows: int = _MAX_ROWS,
        engine: Engine = "auto",
    ) -> None:
        """Make an empty table of at most `max_rows` rows; "auto" takes the core on the CPU and FBGEMM on CUDA.

        Rows are in the encoding of their feature, or in `encoding`.

        Raises:
            ValueError: the core and another device than the CPU.
        """
        self.encodings = {feature.name: RowEncoding(feature.encoding or encoding.value) for feature in features}
        self._features = tuple(features)
        self._names = tuple(feature.name for feature in features)
        self._has_sequences = any(feature.length for feature in features)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._store = _store_of(features, tuple(self.encodings.values()), device, max_rows, engine)

    @property
    def core(self) -> ReplicaRowsHandle | None:
        """Return the rows of the core, None with FBGEMM."""
        return self._store.core if isinstance(self._store, CoreRows) else None

    @property
    def num_rows(self) -> int:
        """Return the number of fids with a row, over all features."""
        return self._store.num_rows

    @property
    def num_bytes(self) -> int:
        """Return the memory of the rows in bytes; with the core that of the id maps too."""
        return self._store.num_bytes

    @property
    def digest(self) -> int:
        """Return the digest of all rows, 64 bits: `monolith_py.sync.digest`."""
        return self._store.digest

    def assign(self, feature: str, fids: Int64Array, rows: ByteArray, encoding: RowEncoding) -> None:
        """Assign packed rows to `fids` int64 (n,); rows of another encoding than the feature's are packed again.

        Raises:
            WireError: there is no such feature, or rows have another dim.
            TableFull: the most rows are in use.
        """
        place = self._place(feature)
        self._store.assign(place, np.ascontiguousarray(fids), self._packed(place, rows, encoding))

    def insert_all(self, feature: str, fids: Int64Array, rows: ByteArray, encoding: RowEncoding, *, in_background: bool = False) -> None:
        """Do the same by all cores, for the many rows of a checkpoint; `in_background`: so that requests of another table do not wait.

        Raises:
            WireError: there is no such feature, or rows have another dim.
            TableFull: the most rows are in use.
        """
        place = self._place(feature)
        self._store.insert_all(place, np.ascontiguousarray(fids), self._packed(place, rows, encoding), in_background=in_background)

    def evict(self, feature: str, fids: Int64Array) -> None:
        """Remove the rows of `fids`; a fid without a row is skipped.

        Raises:
            WireError: there is no such feature.
        """
        self._store.evict(self._place(feature), np.ascontiguousarray(fids))

    def pool(self, batch: Batch) -> FloatArray:
        """Return pooled rows float32 (B, sum of the dims), in the order of the features; a fid without a row reads zeros.

        A feature with pooling "first" has `length` rows side by side, zeros for those that a bag lacks.
        """
        return self._store.pool(self._bags_of(batch))

    def lookup(self, batch: Batch) -> Tensor:
        """Return the result of `pool` as a tensor on the device of the rows."""
        return self._store.lookup(self._bags_of(batch))

    def _bags_of(self, batch: Batch) -> Batch:
        assert batch.names == self._names, (batch.names, self._names)
        return _spread(batch, self._features) if self._has_sequences else batch

    def _place(self, feature: str) -> int:
        if feature not in self._places:
            raise WireError(f"table must be one of {list(self._names)}, got {feature!r}")
        return self._places[feature]

    def _packed(self, place: int, rows: ByteArray, encoding: RowEncoding) -> ByteArray:
        """Return `rows` in the encoding of their feature."""
        name, dim = self._names[place], self._features[place].dim
        if rows.shape[1] != row_bytes(dim, encoding):
            raise WireError(f"rows of table {name!r} must have dim {dim}, got {rows.shape[1]} bytes of {encoding.value}")
        if encoding is not self.encodings[name]:
            rows = pack_rows(unpack_rows(rows, dim, encoding), self.encodings[name])
        return np.ascontiguousarray(rows)


def runs_core(engine: Engine, device: Device) -> bool:
    """Return whether the core holds the rows and computes the model on `device`."""
    return engine == "core" or (engine == "auto" and device.type == "cpu")


def _spread(batch: Batch, features: Sequence[FeatureConfig]) -> Batch:
    """Return `batch` with a bag for each of the first `length` fids of the features that are sequences."""
    lengths = batch.lengths.reshape(len(features), batch.num_rows)
    fids, of_bags = [], []
    for feature, num, own in zip(features, lengths, np.split(batch.fids, np.cumsum(lengths.sum(axis=1))[:-1]), strict=True):
        starts = np.cumsum(num, dtype=np.int64) - num
        for place in range(feature.length):
            has = num > place
            fids.append(own[starts[has] + place])
            of_bags.append(has.astype(np.int32))
        if not feature.length:
            fids.append(own)
            of_bags.append(num)
    return replace(batch, fids=np.concatenate(fids), lengths=np.concatenate(of_bags))


def _store_of(
    features: Sequence[FeatureConfig], encodings: Sequence[RowEncoding], device: Device, max_rows: int, engine: Engine
) -> CoreRows | FbgemmRows:
    if engine == "core" and device.type != "cpu":
        raise ValueError(f"serving.engine must be 'auto' or 'fbgemm' on {device.type}, got 'core'")
    if runs_core(engine, device):
        return CoreRows(features, encodings, max_rows)
    if odd := [feature.name for feature in features if feature.dim % 4]:
        raise ValueError(f"features.dim must be a multiple of 4 with FBGEMM, got others for {odd}")
    from monolith_serving.replica.fbgemm_rows import FbgemmRows  # its import takes a second and 100 MB

    return FbgemmRows(features, encodings, max_rows, device)
