"""Rows of a replica in the core: found by fid and pooled in one pass, on the CPU.

Letters: n fids, G bags of a row of the batch, B rows of a batch, R = bytes of one packed row.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from monolith_py._core import ReplicaRows, ReplicaRowsHandle
from monolith_py.config import FeatureConfig
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import TableFull
from monolith_py.model.batch import Batch
from monolith_py.sync import ByteArray, RowEncoding

if TYPE_CHECKING:
    from torch import Tensor


class CoreRows:
    """Rows of all features, of any dims and encodings. Look-ups take no lock and run beside a change; changes wait for each other."""

    def __init__(self, features: Sequence[FeatureConfig], encodings: Sequence[RowEncoding], max_rows: int) -> None:
        parts = [
            (feature.name, feature.dim, encoding.value, feature.pooling == "mean", feature.num_rows)
            for feature, encoding in zip(features, encodings, strict=True)
        ]
        self._rows = ReplicaRows(parts, max_rows)
        self._core = self._rows.handle
        self._width = sum(feature.dim * feature.num_rows for feature in features)
        self._max_rows = max_rows

    @property
    def core(self) -> ReplicaRowsHandle:
        """Return the rows, for `CoreRanker`."""
        return self._core

    @property
    def num_rows(self) -> int:
        """Return the number of fids with a row, over all features."""
        return self._rows.num_rows

    @property
    def num_bytes(self) -> int:
        """Return the memory of rows and id maps in bytes."""
        return self._rows.num_bytes

    @property
    def digest(self) -> int:
        """Return the digest of all rows, 64 bits."""
        return self._rows.digest

    def assign(self, feature: int, fids: Int64Array, rows: ByteArray) -> None:
        """Assign packed rows uint8 (n, R) to `fids` int64 (n,).

        Raises:
            TableFull: more than `max_rows` rows would be in use.
        """
        if not self._rows.assign(feature, fids, rows):
            raise self._full(len(fids))

    def insert_all(self, feature: int, fids: Int64Array, rows: ByteArray, *, in_background: bool = False) -> None:
        """Do the same by all cores: faster for the rows of a checkpoint. In the background by half of them, at a low priority.

        Raises:
            TableFull: more than `max_rows` rows would be in use.
        """
        num_threads = os.cpu_count() or 1
        if not self._rows.insert_all(feature, fids, rows, max(1, num_threads // 2) if in_background else num_threads, in_background):
            raise self._full(len(fids))

    def evict(self, feature: int, fids: Int64Array) -> None:
        """Remove the rows of `fids`; a fid without a row is skipped."""
        self._rows.evict(feature, fids)

    def pool(self, batch: Batch) -> FloatArray:
        """Return the pooled rows of all bags, float32 (B, sum of their dims), for lengths int32 (G * B,)."""
        pooled = np.empty((batch.num_rows, self._width), np.float32)
        self._rows.pool_by_feature(batch.lengths, batch.fids, pooled)
        return pooled

    def lookup(self, batch: Batch) -> Tensor:
        """Return the same as a tensor."""
        import torch  # to compare with the core's model

        return torch.from_numpy(self.pool(batch))

    def _full(self, num_rows: int) -> TableFull:
        return TableFull(f"rows of the replica must be at most {self._max_rows}, got {self.num_rows} and {num_rows} more")
