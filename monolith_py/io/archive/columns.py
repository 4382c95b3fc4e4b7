"""Records of a topic to Parquet tables by event hour.

Every table has `log_partition` int32, `log_offset` int64 and `log_time_ms` int64, the place and time of the record. Further columns:

    impressions  request_id, time_ms, user_id, item_ids list<int64>, task_names list<string>, scores list<float> (candidate by candidate),
                 model_version, arm, record binary
    actions      request_id, item_id, kind, time_ms, value double, record binary
    examples     log_row int32, the columns of `monolith_py.io.codec.examples`; dense features are list<float>, texts plain strings
    refused      log_topic, fault, record binary: records that no decoder takes

`record` has the bytes of the record, so a replay reads exactly the topic. One example is one row; its hour is that of its impression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monolith_py.errors import WireError
from monolith_py.io.codec import decode_action, decode_examples, decode_impression
from monolith_py.io.log.log import Record

TOPICS = ("impressions", "actions", "examples")
REFUSED = "refused"
HOUR_MS = 3_600_000
# Hours up to the end of year 9999, the last that a folder's name can have.
_HOURS = range(253_402_300_800_000 // HOUR_MS)
_IMPRESSION = {
    "request_id": pa.string(),
    "time_ms": pa.int64(),
    "user_id": pa.int64(),
    "item_ids": pa.list_(pa.int64()),
    "task_names": pa.list_(pa.string()),
    "scores": pa.list_(pa.float32()),
    "model_version": pa.string(),
    "arm": pa.string(),
    "record": pa.binary(),
}
_ACTION = {
    "request_id": pa.string(),
    "item_id": pa.int64(),
    "kind": pa.string(),
    "time_ms": pa.int64(),
    "value": pa.float64(),
    "record": pa.binary(),
}
_REFUSED = {"log_topic": pa.string(), "fault": pa.string(), "record": pa.binary()}
_Row = tuple[object, ...]


def hours_of(topic: str, records: Sequence[Record]) -> dict[tuple[str, int], pa.Table]:
    """Return the tables of `records` of `topic`, one of TOPICS: (topic or REFUSED, hours since the epoch) -> rows in the log's order."""
    rows: dict[tuple[str, int], list[pa.Table]] = {}
    plain: dict[tuple[str, int], list[tuple[Record, _Row]]] = {}
    for record in records:
        try:
            if topic == "examples":
                for hour, table in _example_tables(record).items():
                    rows.setdefault((topic, hour), []).append(table)
            else:
                time_ms, row = _ROWS[topic](record.value)
                plain.setdefault((topic, _hour(time_ms)), []).append((record, row))
        except WireError as error:
            hour = record.time_ms // HOUR_MS
            plain.setdefault((REFUSED, hour if hour in _HOURS else 0), []).append((record, (topic, str(error), record.value)))
    tables = {key: pa.concat_tables(parts, promote_options="default") for key, parts in rows.items()}
    return tables | {key: _plain_table(_TYPES[key[0]], found) for key, found in plain.items()}


def _impression_row(value: bytes) -> tuple[int, _Row]:
    one = decode_impression(value)
    scores = one.scores.ravel().tolist()
    texts = (one.model_version, one.arm, value)
    return one.time_ms, (one.request_id, one.time_ms, one.user_id, one.item_ids.tolist(), list(one.task_names), scores, *texts)


def _action_row(value: bytes) -> tuple[int, _Row]:
    one = decode_action(value)
    return one.time_ms, (one.request_id, one.item_id, one.kind, one.time_ms, one.value, value)


_ROWS: Mapping[str, Callable[[bytes], tuple[int, _Row]]] = {"impressions": _impression_row, "actions": _action_row}
_TYPES: Mapping[str, Mapping[str, pa.DataType]] = {"impressions": _IMPRESSION, "actions": _ACTION, REFUSED: _REFUSED}


def _hour(time_ms: int) -> int:
    hour = time_ms // HOUR_MS
    if hour not in _HOURS:
        raise WireError(f"time_ms must be before the year 10000, got {time_ms}")
    return hour


def _plain_table(types: Mapping[str, pa.DataType], found: Sequence[tuple[Record, _Row]]) -> pa.Table:
    columns = zip(*(row for _, row in found), strict=True)
    arrays = {name: pa.array(values, kind) for (name, kind), values in zip(types.items(), columns, strict=True)}
    return pa.table(_places([record for record, _ in found]) | arrays)


def _places(records: Sequence[Record]) -> dict[str, pa.Array]:
    return {
        "log_partition": pa.array([record.partition for record in records], pa.int32()),
        "log_offset": pa.array([record.offset for record in records], pa.int64()),
        "log_time_ms": pa.array([record.time_ms for record in records], pa.int64()),
    }


def _example_tables(record: Record) -> dict[int, pa.Table]:
    """Return the examples of one record by hour.

    Raises:
        WireError: the record is not valid, or an event time is beyond the year 9999.
    """
    times_ms = decode_examples(record.value).times_ms
    _hour(int(times_ms.max(initial=0)))
    with pa.ipc.open_stream(pa.py_buffer(record.value)) as reader:
        batch = reader.read_next_batch()
    places = {name: pa.repeat(column[0], len(batch)) for name, column in _places([record]).items()}
    columns = places | {"log_row": pa.array(np.arange(len(batch), dtype=np.int32))}
    columns |= {name: _plain(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    table, hours = pa.table(columns), times_ms // HOUR_MS
    return {int(hour): _rows_of(table, hours == hour) for hour in np.unique(hours)}


def _rows_of(table: pa.Table, chosen: npt.NDArray[np.bool_]) -> pa.Table:
    return table if chosen.all() else table.filter(pa.array(chosen))


def _plain(column: pa.Array) -> pa.Array:
    """Return a column in a type that does not depend on the record: width of a dense feature, dictionary of a text."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    if pa.types.is_fixed_size_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    return column
