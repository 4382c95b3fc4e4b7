"""Examples to and from an Arrow IPC stream of one record batch: readable by any Arrow library, decoded without a copy of the features.

Columns: request_id string, item_id int64, time_ms int64, kind uint8, sample_rate float32, `label_<task>` float32, a sparse feature
`s_<name>` list<int64>, a dense one `d_<name>` fixed_size_list<float32>[width], and those of served scores (served_columns.py), if there
are any. Nothing is null. The schema's metadata has the format version under `monolith.examples`, and the writer's own entries. In records
of the joiner the sparse columns with one fid in each row share the buffer of their offsets: a quarter of the bytes at 36 such columns.
Letters: B examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monolith_py.data.columns import FeatureColumns, FloatArray, SparseColumn
from monolith_py.data.examples import ExampleBatch, ExampleKind
from monolith_py.errors import WireError
from monolith_py.io.codec.served_columns import SCORE_PREFIX, TEXT_TYPE, TEXTS, read_served, served_columns

_VERSION_KEY, _VERSION = b"monolith.examples", b"1"
_FIXED = {
    "request_id": pa.string(),
    "item_id": pa.int64(),
    "time_ms": pa.int64(),
    "kind": pa.uint8(),
    "sample_rate": pa.float32(),
}
_FIDS = pa.list_(pa.int64())
_Fields = tuple[tuple[str, int | None], ...]  # column name, width of a dense column


def encode_examples(batch: ExampleBatch, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `batch` as one record with `metadata`, for `examples_metadata`; its keys must not begin with `monolith.`.

    Raises:
        WireError: the batch breaks a rule that decoding checks.
    """
    _check(batch)
    fields: list[tuple[str, int | None]] = []
    arrays: list[pa.Array] = [
        pa.array(list(batch.request_ids), pa.string()),
        *(pa.array(values) for values in (batch.item_ids, batch.times_ms, batch.kinds, batch.sample_rates)),
    ]
    for task, labels in batch.labels.items():
        fields.append((f"label_{task}", None))
        arrays.append(pa.array(labels))
    for name, column in batch.features.sparse.items():
        offsets = np.zeros(len(column) + 1, np.int32)
        np.cumsum(column.lengths, out=offsets[1:])
        if offsets[-1] != len(column.fids):
            raise WireError(f"examples.s_{name}.lengths must add up to {len(column.fids)} fids, got {offsets[-1]}")
        fields.append((f"s_{name}", None))
        arrays.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(column.fids)))
    for name, dense in batch.features.dense.items():
        fields.append((f"d_{name}", dense.shape[1]))
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(dense.ravel()), dense.shape[1]))
    for name, array in served_columns(batch.served).items() if batch.served else ():
        fields.append((name, None))
        arrays.append(array)
    schema = examples_schema(fields, metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    value: bytes = sink.getvalue().to_pybytes()
    return value


def examples_schema(fields: Sequence[tuple[str, int | None]], metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """Return the schema of a record with the columns of every record and `fields`: name, and width of a dense column."""
    reserved = [key for key in metadata or () if key.startswith("monolith.")]
    if reserved:
        raise ValueError(f"metadata keys must not begin with 'monolith.', got {reserved}")
    texts = {key.encode(): text.encode() for key, text in (metadata or {}).items()}
    return _schema((*((name, None) for name in _FIXED), *fields)).with_metadata({_VERSION_KEY: _VERSION, **texts})


def decode_examples(value: bytes) -> ExampleBatch:
    """Return the examples in `value`. Fids and dense values are read-only views of it.

    Raises:
        WireError: no Arrow stream of one batch, another format version, a column that is missing, unknown or of the wrong type, a null,
            or a value that breaks its rule.
    """
    return decode_examples_record(value)[0]


def decode_examples_record(value: bytes) -> tuple[ExampleBatch, dict[str, str]]:
    """Return the examples in `value` as `decode_examples` does, and the metadata given to `encode_examples`."""
    record = _read(value)
    return _examples_of(record), _texts(record.schema)


def _examples_of(record: pa.RecordBatch) -> ExampleBatch:
    columns = {field.name: column for field, column in zip(record.schema, record.columns, strict=True)}
    for name, kind in _FIXED.items():
        if name not in columns:
            raise WireError(f"examples must have a column {name}, got {sorted(columns)}")
        _require_type(name, columns[name], kind)
    labels: dict[str, FloatArray] = {}
    scores: dict[str, FloatArray] = {}
    sparse: dict[str, SparseColumn] = {}
    dense: dict[str, FloatArray] = {}
    for name, column in columns.items():
        if name in _FIXED or name in TEXTS:
            continue
        prefix, _, rest = name.partition("_")
        if prefix in ("label", "score") and rest:
            _require_type(name, column, pa.float32())
            (labels if prefix == "label" else scores)[rest] = np.array(column)
        elif prefix == "s" and rest:
            sparse[rest] = _sparse_column(name, column)
        elif prefix == "d" and rest:
            dense[rest] = _dense_column(name, column)
        else:
            raise WireError(f"examples columns must begin with label_, score_, s_ or d_, got {name!r}")
    batch = ExampleBatch(
        request_ids=tuple(columns["request_id"].to_pylist()),
        item_ids=np.array(columns["item_id"]),
        times_ms=np.array(columns["time_ms"]),
        kinds=np.array(columns["kind"]),
        sample_rates=np.array(columns["sample_rate"]),
        labels=labels,
        features=FeatureColumns(record.num_rows, sparse, dense),
        served=read_served(columns, scores),
    )
    _check(batch)
    return batch


def examples_metadata(value: bytes) -> dict[str, str]:
    """Return the metadata given to `encode_examples`, without reading the examples.

    Raises:
        WireError: `value` does not begin with an Arrow schema of this format.
    """
    try:
        return _texts(pa.ipc.read_schema(pa.BufferReader(value)))
    except (pa.ArrowException, OSError) as error:
        raise WireError(f"examples must be an Arrow IPC stream: {error}, got {len(value)} bytes") from None


def _texts(schema: pa.Schema) -> dict[str, str]:
    """Return the writer's own entries of the metadata."""
    try:
        return {key.decode(): text.decode() for key, text in _metadata(schema).items() if key != _VERSION_KEY}
    except UnicodeDecodeError as error:
        raise WireError(f"examples.metadata must be UTF-8: {error}") from None


@lru_cache(maxsize=64)
def _schema(fields: _Fields) -> pa.Schema:
    types = {"s": _FIDS, "label": pa.float32(), "score": pa.float32()}

    def type_of(name: str, width: int | None) -> pa.DataType:
        if name in _FIXED:
            return _FIXED[name]
        if name in TEXTS:
            return TEXT_TYPE
        return types[name.partition("_")[0]] if width is None else pa.list_(pa.float32(), width)

    return pa.schema([pa.field(name, type_of(name, width), nullable=False) for name, width in fields])


def _metadata(schema: pa.Schema) -> Mapping[bytes, bytes]:
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    if metadata.get(_VERSION_KEY) != _VERSION:
        raise WireError(f"examples.metadata[{_VERSION_KEY.decode()!r}] must be {_VERSION!r}, got {metadata.get(_VERSION_KEY)!r}")
    return metadata


def _read(value: bytes) -> pa.RecordBatch:
    """Return the only batch in `value`, with its buffers checked against their bounds."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(value)) as reader:
            _metadata(reader.schema)
            record = reader.read_next_batch()
            record.validate(full=True)
            names = record.schema.names
            if next(iter(reader), None) is not None:
                raise WireError("examples must be one record batch, got more")
    except StopIteration:
        raise WireError("examples must be one record batch, got none") from None
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise WireError(f"examples must be an Arrow IPC stream: {error}, got {len(value)} bytes") from None
    if len(set(names)) != len(names):
        raise WireError(f"examples columns must be unique, got {sorted(name for name in set(names) if names.count(name) > 1)} twice")
    return record


def _require_type(name: str, column: pa.Array, expected: pa.DataType) -> None:
    if column.type != expected:
        raise WireError(f"examples.{name} must be of type {expected}, got {column.type}")
    if column.null_count:
        raise WireError(f"examples.{name} must have no null, got {column.null_count}")


def _sparse_column(name: str, column: pa.Array) -> SparseColumn:
    _require_type(name, column, _FIDS)
    values = column.values
    if values.null_count:
        raise WireError(f"examples.{name} must have no null, got {values.null_count}")
    offsets = column.offsets.to_numpy()
    fids = values.to_numpy()[offsets[0] : offsets[-1]]
    return SparseColumn(fids, np.diff(offsets))


def _dense_column(name: str, column: pa.Array) -> FloatArray:
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise WireError(f"examples.{name} must be of type fixed_size_list<float32>, got {kind}")
    if kind.list_size == 0:
        raise WireError(f"examples.{name} must have at least 1 value a row, got 0")
    values = column.flatten()
    if column.null_count or values.null_count:
        raise WireError(f"examples.{name} must have no null, got {column.null_count + values.null_count}")
    dense: FloatArray = values.to_numpy().reshape(len(column), kind.list_size)  # (B, width)
    return dense


def _check(batch: ExampleBatch) -> None:
    """Check the rules beyond types; for encoder and decoder."""
    num_rows = len(batch)
    lengths = {
        "item_id": len(batch.item_ids),
        "time_ms": len(batch.times_ms),
        "kind": len(batch.kinds),
        "sample_rate": len(batch.sample_rates),
        **{f"label_{task}": len(labels) for task, labels in batch.labels.items()},
        **{f"s_{feature}": len(column) for feature, column in batch.features.sparse.items()},
        **{f"d_{feature}": len(dense) for feature, dense in batch.features.dense.items()},
    }
    if batch.served:
        lengths["model_version"] = len(batch.served)
        lengths |= {f"{SCORE_PREFIX}{task}": len(scores) for task, scores in batch.served.scores.items()}
    for name, length in lengths.items():
        if length != num_rows:
            raise WireError(f"examples.{name} must have {num_rows} rows, got {length}")
    if not batch.labels:
        raise WireError("examples must have a label_<task> column, got none")
    for task, labels in batch.labels.items():
        _require(f"label_{task}", labels, np.isfinite(labels) & (labels >= 0), "must be finite and >= 0")
    _require("sample_rate", batch.sample_rates, (batch.sample_rates > 0) & (batch.sample_rates <= 1), "must be in (0, 1]")
    _require("kind", batch.kinds, batch.kinds <= max(ExampleKind), f"must be one of {[int(kind) for kind in ExampleKind]}")
    _require("time_ms", batch.times_ms, batch.times_ms > 0, "must be > 0")
    for task, scores in batch.served.scores.items() if batch.served else ():
        _require(f"{SCORE_PREFIX}{task}", scores, np.isnan(scores) | (np.isfinite(scores) & (scores >= 0)), "must be finite and >= 0")
    for name, dense in batch.features.dense.items():
        _require(f"d_{name}", dense, np.isfinite(dense), "must be finite")
    if "" in batch.request_ids:
        raise WireError("examples.request_id must not be empty, got ''")


def _require(name: str, values: npt.NDArray[np.generic], good: npt.NDArray[np.bool_], rule: str) -> None:
    if not good.all():
        row = int(np.flatnonzero(~good.reshape(len(values), -1).all(axis=1))[0])
        raise WireError(f"examples.{name} {rule}, got {values[row]} at row {row}")
