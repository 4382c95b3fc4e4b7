"""Feature columns of candidates picked from many impressions, without an array for each impression. Letters: B picked candidates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np

from monolith_py.data.columns import FeatureColumns, FloatArray, SparseColumn
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_py.io.codec.wire_patterns import FlatColumns, WirePatterns
from monolith_py.pb import example_pb2 as pb

# A candidate: its impression and its row there.
Pick = tuple[ImpressionView, int]
Only = Collection[str] | None


def pick_features(picks: Sequence[Pick], patterns: WirePatterns, only: Only = None) -> FeatureColumns:
    """Return the features of the picked candidates in order, B > 0 rows; `only` names the features to keep.

    Shared features are repeated for each row. A sparse feature that an impression lacks is empty there, a dense one zero. Dense features
    that are not in `patterns.widths` are left out.
    """
    flats: list[FlatColumns] = []
    for impression, _ in picks:
        flat = impression.flat_columns(patterns)
        if flat is None or (flats and flat.names != flats[0].names):
            return _from_messages(picks, patterns.widths, only)
        flats.append(flat)
    return _stack(flats, only)


def _stack(flats: Sequence[FlatColumns], only: Only) -> FeatureColumns:
    """Stack `flats` (same names) into columns."""
    names = flats[0].names
    fids = np.frombuffer(b"".join(flat.fids for flat in flats), "<i8").reshape(len(flats), len(names))
    by_column = np.ascontiguousarray(fids.T, np.int64)  # (names, B)
    ones = np.ones(len(flats), np.int32)
    kept = {name: SparseColumn(by_column[index], ones) for index, name in enumerate(names) if only is None or name in only}
    return FeatureColumns(len(flats), kept)


def _from_messages(picks: Sequence[Pick], widths: Mapping[str, int], only: Only) -> FeatureColumns:
    """Collect the columns through the messages' accessors."""
    sparse: dict[str, _Sparse] = {}
    dense: dict[str, _Dense] = {}
    num_rows = 0
    for impression, group in groupby(picks, key=itemgetter(0)):
        message, rows = impression.message, [row for _, row in group]
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
        self._odd: dict[int, int] = {}  # row -> number of fids, if not 1

    def add(self, start: int, column: pb.SparseColumn, rows: Sequence[int]) -> None:
        """Append `rows` of `column`, the first as row `start`."""
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
        """Append empty rows up to `num_rows`."""
        self._odd.update(dict.fromkeys(range(self._num_rows, num_rows), 0))
        self._num_rows = num_rows


class _Dense:
    """A dense column of `width` values a row that grows."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._values: list[float] = []

    def add(self, start: int, values: Iterable[float], rows: Sequence[int]) -> None:
        """Append `rows` of a row-major column, the first as row `start`."""
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
