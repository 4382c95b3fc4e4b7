"""Sparse and dense features of many rows, column-major, as numpy arrays.

Letters: B rows (examples or candidates), n fids over all rows of a sparse column, F sparse features of a job, W width of its dense ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SparseColumn:
    """Fids of one feature over B rows: `fids` int64 (n,), `lengths` int32 (B,), n = lengths.sum()."""

    fids: Int64Array
    lengths: Int32Array

    def __post_init__(self) -> None:
        assert self.fids.dtype == np.int64 and self.lengths.dtype == np.int32

    def __len__(self) -> int:
        return len(self.lengths)

    def repeat(self, times: int) -> SparseColumn:
        """Return the single row of this column `times` times."""
        assert len(self) == 1
        return SparseColumn(np.tile(self.fids, times), np.repeat(self.lengths, times))

    def slice(self, start: int, stop: int) -> SparseColumn:
        """Return rows [start, stop)."""
        first = int(self.lengths[:start].sum())
        lengths = self.lengths[start:stop]
        return SparseColumn(self.fids[first : first + int(lengths.sum())], lengths)

    @staticmethod
    def concat(columns: Sequence[SparseColumn]) -> SparseColumn:
        """Return the rows of all columns in order."""
        return SparseColumn(np.concatenate([c.fids for c in columns]), np.concatenate([c.lengths for c in columns]))

    @staticmethod
    def empty(num_rows: int) -> SparseColumn:
        """Return a column of `num_rows` rows without a fid."""
        return SparseColumn(np.empty(0, np.int64), np.zeros(num_rows, np.int32))


@dataclass(frozen=True)
class FeatureColumns:
    """Features of B rows: sparse by name, dense by name (float32 (B, dim)). All columns have `num_rows` rows."""

    num_rows: int
    sparse: Mapping[str, SparseColumn] = field(default_factory=dict)
    dense: Mapping[str, FloatArray] = field(default_factory=dict)

    def slice(self, start: int, stop: int) -> FeatureColumns:
        """Return rows [start, stop)."""
        stop = min(stop, self.num_rows)
        return FeatureColumns(
            stop - start,
            {name: column.slice(start, stop) for name, column in self.sparse.items()},
            {name: values[start:stop] for name, values in self.dense.items()},
        )

    def repeat(self, times: int) -> FeatureColumns:
        """Return the single row of these columns `times` times."""
        assert self.num_rows == 1
        return FeatureColumns(
            times,
            {name: column.repeat(times) for name, column in self.sparse.items()},
            {name: np.repeat(values, times, axis=0) for name, values in self.dense.items()},
        )

    @staticmethod
    def concat(parts: Sequence[FeatureColumns]) -> FeatureColumns:
        """Return the rows of all parts in order; a sparse column absent from a part is empty there, a dense one zero."""
        names = list(dict.fromkeys(name for part in parts for name in part.sparse))
        widths = {name: values.shape[1] for part in parts for name, values in part.dense.items()}
        return FeatureColumns(
            sum(part.num_rows for part in parts),
            {name: SparseColumn.concat([p.sparse.get(name) or SparseColumn.empty(p.num_rows) for p in parts]) for name in names},
            {
                name: np.concatenate([p.dense[name] if name in p.dense else np.zeros((p.num_rows, width), np.float32) for p in parts])
                for name, width in widths.items()
            },
        )


class InputForm(NamedTuple):
    """Features of a job in the order of its model input."""

    sparse: tuple[str, ...]  # (F,)
    dense: tuple[tuple[str, int], ...]  # name and dim


@dataclass(frozen=True, kw_only=True)
class StackedColumns(FeatureColumns):
    """Feature columns beside the model input of a job, feature-major: all fids of the first feature, then of the second."""

    form: InputForm
    fids: Int64Array  # (n,) of all sparse features
    lengths: Int32Array  # (F * B,)
    matrix: FloatArray  # (B, W)
