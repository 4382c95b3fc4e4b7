"""Parquet files of tables: columns as ids, bags of fids, dense values, times and texts, each row checked.

Letters: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monolith_py.data.columns import FloatArray, Int64Array, SparseColumn
from monolith_py.data.events import EventTimeRule
from monolith_py.data.ids import fids_from_texts
from monolith_py.errors import ArchiveError, WireError
from monolith_streaming.load.bad_rows import BadRows

_BATCH_ROWS = 8192
_UINT63 = (1 << 63) - 1


class TableFile:
    """One Parquet file, read in batches.

    Raises:
        ArchiveError: the file cannot be read.
    """

    def __init__(self, path: Path, bad: BadRows) -> None:
        self.path, self.bad = path, bad
        try:
            with pq.ParquetFile(path) as file:
                self.num_rows, self.columns = int(file.metadata.num_rows), list(file.schema_arrow.names)
                self._types = {field.name: field.type for field in file.schema_arrow}
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"{path}: {error}") from error

    def require(self, column: str, setting: str) -> str:
        """Return `column`, named by the setting `setting`.

        Raises:
            WireError: the file has no such column.
        """
        if column not in self.columns:
            raise WireError(f"{self.path}: must have a column {column!r} ({setting} of the load's columns), got {self.columns}")
        return column

    def has_lists(self, column: str) -> bool:
        """Return whether the values of a column are lists."""
        return _is_list(self._types[column])

    def batches(self) -> Iterator[TableBatch]:
        """Yield the rows in order.

        Raises:
            ArchiveError: the file cannot be read.
        """
        first = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    yield TableBatch(batch, first, self.bad)
                    first += len(batch)
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"{self.path}: {error}") from error


class TableBatch:
    """B rows of a file. A method that reads a column clears `good` where a row breaks its rule; the value is then a placeholder."""

    def __init__(self, batch: pa.RecordBatch, first_row: int, bad: BadRows) -> None:
        self._batch, self._first_row, self._bad = batch, first_row, bad
        self.good: npt.NDArray[np.bool_] = np.ones(len(batch), np.bool_)

    def __len__(self) -> int:
        return len(self.good)

    def require(self, column: str, good: npt.NDArray[np.bool_], rule: str, value: Callable[[int], object] | None = None) -> None:
        """Clear `good` of the rows that break `rule`, and count them or raise WireError."""
        shown = value or (lambda row: self._batch.column(column)[row].as_py())
        self.good &= self._bad.broken(column, self._first_row, good, rule, shown)

    def ids(self, column: str) -> Int64Array:
        """Return ids, int64 (B,): integers as they are, texts hashed by `fid_from_text`."""
        array = self._filled(column)
        return self._fids(column, array)

    def bags(self, column: str) -> SparseColumn:
        """Return bags of fids: a list of ids, one id, or none where the table has a null."""
        array = _decoded(self._batch.column(column))
        if pa.types.is_null(array.type):
            return SparseColumn.empty(len(array))
        if not _is_list(array.type):
            lengths = np.asarray(array.is_valid()).astype(np.int32)
            return SparseColumn(self._fids(column, array.drop_null()), lengths)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int32)
        values = _decoded(array.flatten())
        inside = np.asarray(values.is_valid())
        rows = np.repeat(np.arange(len(array)), lengths)
        num_nulls = np.bincount(rows[~inside], minlength=len(array))
        self.require(column, np.equal(num_nulls, 0), "must have no null in a list")
        lengths = np.bincount(rows[inside], minlength=len(array)).astype(np.int32)
        return SparseColumn(self._fids(column, values.drop_null()), lengths)

    def values(self, column: str, dim: int) -> FloatArray:
        """Return dense values, float32 (B, dim): numbers if dim is 1, or lists of `dim` numbers."""
        array = self._filled(column)
        if _is_list(array.type):
            lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0))
            right = lengths == dim
            self.require(column, right, f"must have {dim} values")
            kept = array.filter(pa.array(right)).flatten()
        else:
            if dim != 1:
                raise WireError(f"{self._bad.path}: column {column!r} must have lists of {dim} values, got {array.type}")
            right, kept = np.ones(len(array), np.bool_), array
        values = np.zeros((len(array), dim), np.float32)
        values[right] = self._floats(column, kept).reshape(-1, dim)
        self.require(column, np.isfinite(values).min(axis=1, initial=True), "must be finite in float32")
        return values

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return numbers, float64 (B,)."""
        numbers = self._floats(column, self._filled(column)).astype(np.float64)
        self.require(column, np.isfinite(numbers), "must be finite")
        return numbers

    def times_ms(self, column: str, rule: EventTimeRule, wall_ms: int) -> Int64Array:
        """Return event times, int64 (B,), from integers in milliseconds or timestamps."""
        array = self._filled(column)
        if pa.types.is_timestamp(array.type):
            array = array.cast(pa.timestamp("ms", array.type.tz), safe=False).cast(pa.int64())
        elif not pa.types.is_integer(array.type):
            raise WireError(f"{self._bad.path}: column {column!r} must be integers or timestamps, got {array.type}")
        times_ms = np.asarray(array).astype(np.int64)
        self.require(column, times_ms > 0, "must be after 1970")
        text = f"must be in milliseconds and at most {rule.max_skew_ms} ms ahead of the wall clock"
        self.require(column, ~rule.broken(times_ms, wall_ms), text)
        return times_ms

    def texts(self, column: str, max_chars: int) -> list[str]:
        """Return texts; integers in decimal."""
        array = self._filled(column)
        if not (pa.types.is_integer(array.type) or _is_text(array.type)):
            raise WireError(f"{self._bad.path}: column {column!r} must be texts or integers, got {array.type}")
        texts: list[str] = array.cast(pa.string()).to_pylist()
        self.require(column, np.array([0 < len(text) <= max_chars for text in texts], np.bool_), f"must have 1 to {max_chars} characters")
        return texts

    def _filled(self, column: str) -> Any:
        """Return a column without nulls: a null breaks a rule, and a placeholder stands for it."""
        array = _decoded(self._batch.column(column))
        self.require(column, np.asarray(array.is_valid()), "must not be null")
        if not array.null_count or _is_list(array.type):
            return array
        return array.fill_null("0" if _is_text(array.type) else pa.scalar(1).cast(array.type))

    def _fids(self, column: str, array: Any) -> Int64Array:
        if _is_text(array.type):
            return fids_from_texts(array.to_pylist())
        if not pa.types.is_integer(array.type):
            raise WireError(f"{self._bad.path}: column {column!r} must be integers or texts, got {array.type}")
        if pa.types.is_uint64(array.type) and len(array) and pc.max(array).as_py() > _UINT63:
            raise WireError(f"{self._bad.path}: column {column!r} must be integers of 63 bits, got {pc.max(array).as_py()}")
        fids: Int64Array = np.asarray(array.cast(pa.int64()))
        return fids

    def _floats(self, column: str, array: Any) -> FloatArray:
        kind = array.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind)):
            raise WireError(f"{self._bad.path}: column {column!r} must be numbers, got {kind}")
        if pa.types.is_boolean(kind):
            array = array.cast(pa.int8())
        with np.errstate(over="ignore"):
            floats: FloatArray = np.asarray(array.cast(pa.float64(), safe=False).fill_null(np.nan)).astype(np.float32)
        return floats


def _decoded(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
