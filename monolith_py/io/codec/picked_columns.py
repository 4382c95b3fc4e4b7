"""Rows of impressions to the columns of examples, without an array for each impression. B rows are picked in all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from monolith_py.data.columns import FeatureColumns, FloatArray, SparseColumn
from monolith_py.io.codec.wire_patterns import FlatColumns
from monolith_py.pb import example_pb2 as pb

Only = Collection[str] | None


def flat_features(flats: Sequence[FlatColumns], only: Only = None) -> FeatureColumns:
    """Return the rows that `flats`, which all have the same names, are; of the features in `only` where it is given."""
    names = flats[0].names
    fids = np.frombuffer(b"".join(flat.fids for flat in flats), "<i8").reshape(len(flats), len(names))
    by_column = np.ascontiguousarray(fids.T, np.int64)  # (names, B)
    ones = np.ones(len(flats), np.int32)
    wanted = {name: SparseColumn(by_column[index], ones) for index, name in enumerate(names) if only is None or name in only}
    return FeatureColumns(len(flats), wanted)


def picked_features(picks: Iterable[tuple[pb.Impression, Sequence[int]]], widths: Mapping[str, int], only: Only = None) -> FeatureColumns:
    """Return the features of the picked candidates, in order; a pick is a valid impression and the candidates' rows in it.

    Shared features are repeated for each row. A sparse feature that an impression lacks is empty there, a dense one zero;
    dense features that are not in `widths` are left out, and so is every feature not in `only`.
    """
    sparse: dict[str, _Sparse] = {}
    dense: dict[str, _Dense] = {}
    num_rows = 0
    for message, rows in picks:
        for part, part_rows in ((message.shared, (0,) * len(rows)), (message.candidates, rows)):
            for column in part.sparse:
                if only is None or column.name in only:
                    sparse.setdefault(column.name, _Sparse()).add(num_rows, column, part_rows)
            for values in part.dense:
                if values.name in widths and (only is None or values.name in only):
                    dense.setdefault(values.name, _Dense(widths[values.name])).add(num_rows, values.values, part_rows)
        num_rows += len(rows)
    return FeatureColumns(
        num_rows,
        {name: sparse_column.finish(num_rows) for name, sparse_column in sparse.items()},
        {name: dense_column.finish(num_rows) for name, dense_column in dense.items()},
    )


class _Sparse:
    """A sparse column that grows; rows without exactly one fid are noted apart."""

    def __init__(self) -> None:
        self._fids: list[int] = []
        self._num_rows = 0
        self._odd: dict[int, int] = {}  # row -> number of fids, where that is not 1

    def add(self, start: int, column: pb.SparseColumn, rows: Sequence[int]) -> None:
        """Append `rows` of `column` as rows from `start` on."""
        self._pad(start)
        fids, lengths = list(column.fids), list(column.lengths)
        if lengths:
            starts = [0]
            for length in lengths:
                starts.append(starts[-1] + length)
            for index, row in enumerate(rows):
                self._fids += fids[starts[row] : starts[row + 1]]
                if lengths[row] != 1:
                    self._odd[start + index] = lengths[row]
        else:
            self._fids += [fids[row] for row in rows]
        self._num_rows += len(rows)

    def finish(self, num_rows: int) -> SparseColumn:
        """Return the column with `num_rows` rows."""
        self._pad(num_rows)
        lengths = np.ones(num_rows, np.int32)
        if self._odd:
            lengths[list(self._odd)] = list(self._odd.values())
        return SparseColumn(np.array(self._fids, np.int64), lengths)

    def _pad(self, num_rows: int) -> None:
        """Let empty rows follow up to `num_rows`."""
        self._odd.update(dict.fromkeys(range(self._num_rows, num_rows), 0))
        self._num_rows = num_rows


class _Dense:
    """A dense column of `width` values a row that grows."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._values: list[float] = []

    def add(self, start: int, values: Iterable[float], rows: Sequence[int]) -> None:
        """Append `rows` of a row-major column as rows from `start` on."""
        self._pad(start)
        flat = list(values)
        for row in rows:
            self._values += flat[row * self._width : (row + 1) * self._width]

    def finish(self, num_rows: int) -> FloatArray:
        """Return the column: float32 (B, width)."""
        self._pad(num_rows)
        return np.array(self._values, np.float32).reshape(num_rows, self._width)

    def _pad(self, num_rows: int) -> None:
        self._values += [0.0] * (num_rows * self._width - len(self._values))
