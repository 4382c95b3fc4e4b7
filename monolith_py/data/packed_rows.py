"""Features in packed form: one array of fids for all features of all rows, instead of one array per feature.

Letters: R rows, F sparse features, W sum of the dense features' dims, n fids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.config import DenseFeatureConfig
from monolith_py.data.columns import FeatureColumns, FloatArray, Int32Array, Int64Array, SparseColumn

IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class PackedRow:
    """Features of one user, item or request."""

    fids: Int64Array  # (n,)
    lengths: Int32Array  # (F,)
    dense: FloatArray  # (W,)


@dataclass(frozen=True)
class PackedRows:
    """R rows of the same features. Rows may share fids, so repeated and reordered rows copy none.

    >>> rows = PackedRows.of([PackedRow(np.array([7, 8, 9]), np.array([1, 2], np.int32), np.empty(0, np.float32))])
    >>> fids, lengths = rows.repeat(np.array([2])).by_feature()
    >>> fids.tolist(), lengths.tolist()
    ([7, 7, 8, 9, 8, 9], [1, 1, 2, 2])
    """

    fids: Int64Array  # (n,)
    starts: Int64Array  # (R, F) position of each bag in `fids`
    lengths: Int32Array  # (R, F)
    dense: FloatArray  # (R, W)

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def of(rows: Sequence[PackedRow]) -> PackedRows:
        """Return the rows, at least one, together."""
        lengths = np.stack([row.lengths for row in rows])  # (R, F)
        starts = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape) - lengths
        return PackedRows(np.concatenate([row.fids for row in rows]), starts, lengths, np.stack([row.dense for row in rows]))

    @staticmethod
    def concat(parts: Sequence[PackedRows]) -> PackedRows:
        """Return the rows of all parts, at least one, in order."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([len(part.fids) for part in parts])
        starts = [part.starts + end - len(part.fids) for part, end in zip(parts, ends, strict=True)]
        return PackedRows(
            np.concatenate([part.fids for part in parts]),
            np.concatenate(starts),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.dense for part in parts]),
        )

    def beside(self, other: PackedRows) -> PackedRows:
        """Return rows with the features of `self`, then those of `other`, which must have as many rows."""
        assert len(self) == len(other), (len(self), len(other))
        return PackedRows(
            np.concatenate([self.fids, other.fids]),
            np.concatenate([self.starts, other.starts + len(self.fids)], axis=1),
            np.concatenate([self.lengths, other.lengths], axis=1),
            np.concatenate([self.dense, other.dense], axis=1),
        )

    def rows(self, index: Int64Array) -> PackedRows:
        """Return copies of the rows at `index` int64 (r,), without the fids of others."""
        starts, lengths = self.starts[index], self.lengths[index]
        ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
        return PackedRows(self.fids[_ragged_index(starts.ravel(), lengths.ravel())], ends - lengths, lengths, self.dense[index])

    def repeat(self, counts: Int64Array) -> PackedRows:
        """Return row r `counts[r]` times: counts int64 (R,)."""
        return PackedRows(
            self.fids,
            np.repeat(self.starts, counts, axis=0),
            np.repeat(self.lengths, counts, axis=0),
            np.repeat(self.dense, counts, axis=0),
        )

    def take(self, features: IndexArray, dense: IndexArray) -> PackedRows:
        """Return the rows with the sparse features and the dense columns at these indices, in that order."""
        return PackedRows(
            self.fids,
            np.take(self.starts, features, axis=1),
            np.take(self.lengths, features, axis=1),
            np.take(self.dense, dense, axis=1),
        )

    def with_dense(self, dense: FloatArray) -> PackedRows:
        """Return the rows with `dense` float32 (R, V) after their own dense values."""
        return PackedRows(self.fids, self.starts, self.lengths, np.concatenate([self.dense, dense], axis=1))

    def feature(self, index: int) -> tuple[Int64Array, Int32Array]:
        """Return the fids of one feature, row by row, and their number in each row: int64 (m,), int32 (R,)."""
        lengths = self.lengths[:, index]
        return self.fids[_ragged_index(self.starts[:, index], lengths)], lengths

    def by_feature(self) -> tuple[Int64Array, Int32Array]:
        """Return the fids feature by feature, row by row within a feature, and the lengths: int64 (n,), int32 (F * R,)."""
        lengths = self.lengths.T.ravel()
        return self.fids[_ragged_index(self.starts.T.ravel(), lengths)], lengths

    def columns(self, names: Sequence[str], dense: Sequence[DenseFeatureConfig]) -> FeatureColumns:
        """Return the rows as feature columns."""
        fids, lengths = self.by_feature()
        by_feature = lengths.reshape(len(names), len(self))  # (F, R)
        bounds = [0, *np.cumsum(by_feature.sum(axis=1)).tolist()]
        sparse = {name: SparseColumn(fids[bounds[f] : bounds[f + 1]], by_feature[f]) for f, name in enumerate(names)}
        columns: dict[str, FloatArray] = {}
        first = 0
        for feature in dense:
            columns[feature.name] = self.dense[:, first : first + feature.dim]
            first += feature.dim
        return FeatureColumns(len(self), sparse, columns)


def _ragged_index(starts: Int64Array, lengths: Int32Array) -> Int64Array:
    """Return starts[0], starts[0] + 1, ... (lengths[0] of them), then the same for the next: int64 (sum of lengths,)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if not len(ends):
        return np.empty(0, np.int64)
    index: Int64Array = np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)
    return index
