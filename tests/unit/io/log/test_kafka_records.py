"""Records of Kafka's batches as the core reads them, against kafka-python's own reading."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatch

from monolith_py.io.log.kafka_producer import EVENT_TIME
from monolith_py.io.log.kafka_reader import _records_of

LARGEST_MS = 2**63 - 1
times = st.integers(0, 2**41)
header = st.one_of(
    st.tuples(st.just(EVENT_TIME), st.one_of(st.binary(max_size=9), st.none(), times.map(lambda ms: ms.to_bytes(8, "big")))),
    st.tuples(st.text(max_size=20), st.one_of(st.binary(max_size=30), st.none())),
)
record = st.tuples(
    times, st.one_of(st.none(), st.binary(max_size=9)), st.one_of(st.none(), st.binary(max_size=300)), st.lists(header, max_size=3)
)


def batch_of(records: list[Any], offset: int = 0, compression: int = 0, magic: int = 2) -> bytes:
    builder = MemoryRecordsBuilder(magic=magic, compression_type=compression, batch_size=1 << 20, offset=offset)
    for time_ms, key, value, headers in records:
        builder.append(timestamp=time_ms, key=key, value=value, headers=headers if magic == 2 else [])
    builder.close()
    return bytes(builder.buffer())


def read(value: bytes) -> list[tuple[int, int, bytes]]:
    return [one for batch in MemoryRecords(value) for one in _records_of(batch)]


def event_time_ms(one: Any) -> int:
    for name, value in one.headers or ():
        if name == EVENT_TIME and value is not None and len(value) == 8 and int.from_bytes(value, "big") <= LARGEST_MS:
            return int.from_bytes(value, "big")
    return max(int(one.timestamp or 0), 0)


@given(records=st.lists(record, min_size=1, max_size=8), offset=st.integers(0, 2**31 - 10), compression=st.sampled_from([0, 1]))
def test_the_core_reads_what_kafka_python_reads(records: list[Any], offset: int, compression: int) -> None:
    value = batch_of(records, offset, compression)
    expected = [(one.offset, event_time_ms(one), one.value or b"") for batch in MemoryRecords(value) for one in batch]
    assert read(value) == expected
    assert [offset for offset, _, _ in expected] == list(range(offset, offset + len(records)))


def test_a_batch_with_the_time_of_the_broker_gives_this_time() -> None:
    value = bytearray(batch_of([(5, None, b"a", []), (9, None, b"b", [])]))
    value[DefaultRecordBatch.ATTRIBUTES_OFFSET + 1] |= DefaultRecordBatch.TIMESTAMP_TYPE_MASK
    assert read(bytes(value)) == [(0, 9, b"a"), (1, 9, b"b")]


def test_batches_of_the_old_format_are_read() -> None:
    assert read(batch_of([(5, b"k", b"a", [])], magic=1)) == [(0, 5, b"a")]


def test_a_cut_or_changed_batch_is_refused_with_its_offset() -> None:
    whole = batch_of([(5, None, b"abc", [(EVENT_TIME, (7).to_bytes(8, "big"))])] * 3)
    header_bytes = DefaultRecordBatch.HEADER_STRUCT.size
    for size in range(header_bytes, len(whole)):
        with pytest.raises(CorruptRecordError, match="batch at offset 0: a batch must be 3 whole records"):
            _records_of(DefaultRecordBatch(whole[:size]))
    with pytest.raises(CorruptRecordError, match="must be 3 whole records"):
        _records_of(DefaultRecordBatch(whole + b"\x00"))


def test_a_damaged_compressed_batch_is_refused() -> None:
    whole = batch_of([(5, None, b"abc" * 50, [])], compression=1)
    with pytest.raises((gzip.BadGzipFile, EOFError, CorruptRecordError)):
        _records_of(DefaultRecordBatch(whole[:-12]))
