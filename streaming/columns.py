"""Rows of impressions to the columns of examples, without an array for each impression. B rows are picked in all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

from monolith_py.example import FeatureColumns, SparseColumn
from monolith_py.pb import example_pb2 as pb


def picked_features(
    picks: Iterable[tuple[pb.Impression, Sequence[int], bool]], widths: dict[str, int], only: Collection[str] | None = None
) -> FeatureColumns:
    """Return the features of the picked candidates, in order.

    A pick is a valid impression, the candidates' rows in it, and whether each row of each of its sparse columns has one fid.
    Shared features are repeated for each row. A sparse feature that an impression lacks is empty there, a dense one zero;
    dense features that are not in `widths` are left out, and so is every feature not in `only`.
    """
    sparse: dict[str, _Sparse] = {}
    dense: dict[str, _Dense] = {}
    num_rows = 0
    for message, rows, is_plain in picks:
        times = len(rows)
        for part, part_rows in ((message.shared, (0,) * times), (message.candidates, rows)):
            for column in part.sparse:
                name = column.name
                if only is not None and name not in only:
                    continue
                if (sparse_column := sparse.get(name)) is None:
                    sparse_column = sparse[name] = _Sparse()
                if is_plain and times == 1:
                    # Every column of every one-candidate request comes here: no call, no loop.
                    if sparse_column.num_rows != num_rows:
                        sparse_column.pad(num_rows)
                    sparse_column.fids.append(column.fids[part_rows[0]])
                    sparse_column.num_rows += 1
                else:
                    sparse_column.add(num_rows, column, part_rows)
            for values in part.dense:
                name = values.name
                if name in widths and (only is None or name in only):
                    if (dense_column := dense.get(name)) is None:
                        dense_column = dense[name] = _Dense(widths[name])
                    dense_column.add(num_rows, values.values, part_rows)
        num_rows += times
    return FeatureColumns(
        num_rows,
        {name: column.finish(num_rows) for name, column in sparse.items()},
        {name: column.finish(num_rows) for name, column in dense.items()},
    )


class _Sparse:
    """A sparse column that grows; rows without exactly one fid are noted apart."""

    __slots__ = ("fids", "num_rows", "odd")

    def __init__(self) -> None:
        self.fids: list[int] = []
        self.num_rows = 0
        self.odd: dict[int, int] = {}  # row -> number of fids, where that is not 1

    def pad(self, num_rows: int) -> None:
        """Let empty rows follow up to `num_rows`."""
        self.odd.update(dict.fromkeys(range(self.num_rows, num_rows), 0))
        self.num_rows = num_rows

    def add(self, start: int, column: pb.SparseColumn, rows: Sequence[int]) -> None:
        """Append `rows` of `column` as rows from `start` on."""
        self.pad(start)
        fids = list(column.fids)
        lengths = list(column.lengths)
        if not lengths:
            self.fids += [fids[row] for row in rows]
        else:
            starts = [0]
            for length in lengths:
                starts.append(starts[-1] + length)
            for index, row in enumerate(rows):
                self.fids += fids[starts[row] : starts[row + 1]]
                if lengths[row] != 1:
                    self.odd[start + index] = lengths[row]
        self.num_rows += len(rows)

    def finish(self, num_rows: int) -> SparseColumn:
        """Return the column with `num_rows` rows."""
        self.pad(num_rows)
        lengths = np.ones(num_rows, np.int32)
        if self.odd:
            lengths[list(self.odd)] = list(self.odd.values())
        return SparseColumn(np.array(self.fids, np.int64), lengths)


class _Dense:
    """A dense column of `width` values a row that grows."""

    __slots__ = ("values", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.values: list[float] = []

    def add(self, start: int, values: Iterable[float], rows: Sequence[int]) -> None:
        """Append `rows` of a row-major column as rows from `start` on."""
        self._pad(start)
        flat = list(values)
        for row in rows:
            self.values += flat[row * self.width : (row + 1) * self.width]

    def _pad(self, num_rows: int) -> None:
        self.values += [0.0] * (num_rows * self.width - len(self.values))

    def finish(self, num_rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Return the column: float32 (B, width)."""
        self._pad(num_rows)
        return np.array(self.values, np.float32).reshape(num_rows, self.width)
