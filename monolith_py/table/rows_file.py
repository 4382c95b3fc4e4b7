"""Rows of a table as a Parquet file: written and read in chunks.

Columns: `fid` int64; `weights`, a list of D float32; `state`, a list of S float32, absent if the rule has none; `count` uint16, sightings;
`seen_s` int64, last sighting in event time. The file's metadata name the slices, so that state goes only to a rule of its own kind.
A file of a program of one's own needs `fid` and `weights` alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from monolith_py.errors import ArchiveError
from monolith_py.table.row_access import CHUNK_ROWS
from monolith_py.table.views import FloatArray, SliceForm, TableRows

_FORMS = b"monolith.slices"


def write_rows(path: str | Path, chunks: Iterable[TableRows], forms: Sequence[SliceForm], state_width: int) -> int:
    """Write `chunks` to a Parquet file, a row group each, and return the number of rows; the file gets its name once it is whole.

    >>> import tempfile
    >>> from monolith_py.table import EmbeddingTable, Sgd
    >>> table, copy = (EmbeddingTable(dim=4, optimizer=Sgd()) for _ in range(2))
    >>> rows = table.find_or_insert(np.arange(100), now_s=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_rows(f"{folder}/rows.parquet", table.chunks(), table.forms, table.state_width)
    ...     for chunk in read_rows(f"{folder}/rows.parquet"):
    ...         copy.put(chunk, now_s=0)
    >>> written, len(copy)
    (100, 100)

    Raises:
        ArchiveError: the file cannot be written.
    """
    target, num_rows = Path(path), 0
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(temporary, _schema(forms, state_width)) as writer:
            for chunk in chunks:
                writer.write_table(_table(chunk, writer.schema))
                num_rows += len(chunk)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{target}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return num_rows


def read_rows(path: str | Path, max_rows: int = CHUNK_ROWS, *, now_s: int = 0) -> Iterator[TableRows]:
    """Yield the rows of a Parquet file, up to `max_rows` at once. Rows without counts or times count as sighted once, at `now_s`.

    Raises:
        ArchiveError: the file cannot be read, or a column is missing, of another type, or has nulls or lists of several lengths.
    """
    try:
        with pq.ParquetFile(path) as file:
            names, forms = file.schema_arrow.names, _forms(file.schema_arrow.metadata or {})
            if missing := [name for name in ("fid", "weights") if name not in names]:
                raise ArchiveError(f"{path}: must have the columns fid and weights, got none for {missing}")
            for batch in file.iter_batches(max_rows):
                yield _rows(str(path), batch, forms, now_s)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{path}: {error}") from None


def _schema(forms: Sequence[SliceForm], state_width: int) -> pa.Schema:
    fields = [("fid", pa.int64()), ("weights", pa.list_(pa.float32(), sum(form.dim for form in forms)))]
    if state_width:
        fields.append(("state", pa.list_(pa.float32(), state_width)))
    fields += [("count", pa.uint16()), ("seen_s", pa.int64())]
    return pa.schema(fields, metadata={_FORMS: json.dumps(forms).encode()})


def _table(rows: TableRows, schema: pa.Schema) -> pa.Table:
    columns = {
        "fid": pa.array(rows.fids),
        "weights": pa.FixedSizeListArray.from_arrays(pa.array(rows.weights.reshape(-1)), rows.weights.shape[1]),
        "count": pa.array(rows.counts),
        "seen_s": pa.array(rows.seen_s),
    }
    if "state" in schema.names:
        columns["state"] = pa.FixedSizeListArray.from_arrays(pa.array(rows.state.reshape(-1)), rows.state.shape[1])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _forms(metadata: dict[bytes, bytes]) -> tuple[SliceForm, ...]:
    """Return the forms in the metadata of a file; none if it has none that can be read."""
    try:
        return tuple(SliceForm(str(name), int(dim), str(rule)) for name, dim, rule in json.loads(metadata.get(_FORMS, b"[]")))
    except (ValueError, TypeError):
        return ()


def _rows(path: str, batch: pa.RecordBatch, forms: tuple[SliceForm, ...], now_s: int) -> TableRows:
    num, names = len(batch), batch.schema.names
    has_state = "state" in names and bool(forms)
    return TableRows(
        fids=_numbers(path, batch, "fid", np.int64),
        weights=_matrix(path, batch, "weights"),
        state=_matrix(path, batch, "state") if has_state else np.empty((num, 0), np.float32),
        counts=_numbers(path, batch, "count", np.uint16) if "count" in names else np.ones(num, np.uint16),
        seen_s=_numbers(path, batch, "seen_s", np.int64) if "seen_s" in names else np.full(num, now_s, np.int64),
        forms=forms,
    )


def _numbers(path: str, batch: pa.RecordBatch, name: str, dtype: Any) -> npt.NDArray[Any]:
    column = batch.column(name)
    if column.null_count or not pa.types.is_integer(column.type):
        raise ArchiveError(f"{path}: {name} must be integers without nulls, got {column.type} with {column.null_count} nulls")
    return np.ascontiguousarray(column.cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False))


def _matrix(path: str, batch: pa.RecordBatch, name: str) -> FloatArray:
    """Return a column of lists as float32 (n, width)."""
    column = batch.column(name)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if column.null_count or not is_list or not pa.types.is_floating(column.type.value_type):
        raise ArchiveError(f"{path}: {name} must be lists of floats without nulls, got {column.type} with {column.null_count} nulls")
    values = column.flatten()
    width, rest = divmod(len(values), max(1, len(column)))
    lengths = None if pa.types.is_fixed_size_list(column.type) else column.value_lengths().to_numpy(zero_copy_only=False)
    if rest or values.null_count or (lengths is not None and (lengths != width).any()):
        raise ArchiveError(f"{path}: {name} must be lists of one length without nulls, got {len(values)} values in {len(column)} lists")
    floats = np.asarray(values.cast(pa.float32()).to_numpy(zero_copy_only=False), np.float32)
    return np.ascontiguousarray(floats.reshape(len(column), width))
