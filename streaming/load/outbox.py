"""Appends to the log through an outbox in Kv, every record once, by one process at a time.

Records to append are first written to the store. If the process dies afterwards, the next start finds the same bytes in the outbox, reads
the log from the recorded end offset to see which of them it has, and appends the others.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monolith_py.errors import LogError, RecordRefused, RecordsDamaged, WireError
from monolith_py.io import Log, Record, Writer

_HEADER = struct.Struct("<Bqq")  # version, start offset, event time
_LENGTH = struct.Struct("<I")
_VERSION = 1
_READ_RECORDS = 256
# Called with a record that the log will never take, and the reason.
Refused = Callable[[bytes, str], None]


@dataclass(frozen=True)
class Outbox:
    """Records to append to one partition in this order, at or after offset `start`."""

    start: int
    time_ms: int
    values: tuple[bytes, ...]


def encode_outbox(outbox: Outbox) -> bytes:
    """Return the stored form of `outbox`."""
    parts = [_HEADER.pack(_VERSION, outbox.start, outbox.time_ms)]
    for value in outbox.values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def decode_outbox(value: bytes) -> Outbox:
    """Return the outbox in `value`.

    Raises:
        WireError: the bytes have another version or are cut.
    """
    try:
        version, start, time_ms = _HEADER.unpack_from(value)
        if version != _VERSION:
            raise WireError(f"outbox.version must be {_VERSION}, got {version}")
        values, at = [], _HEADER.size
        while at < len(value):
            (length,) = _LENGTH.unpack_from(value, at)
            at += _LENGTH.size
            values.append(value[at : at + length])
            at += length
    except struct.error as error:
        raise WireError(f"outbox must be whole, got {len(value)} bytes: {error}") from None
    if at != len(value):
        raise WireError(f"outbox must have {at} bytes, got {len(value)}")
    return Outbox(start, time_ms, tuple(values))


def deliver(log: Log, writer: Writer, place: tuple[str, int], outbox: Outbox, refused: Refused) -> int:
    """Append the records of `outbox` that the partition `place` lacks and return the offset after the last record.

    `writer` is that of the partition: since it was opened no append of an earlier process arrives any more.

    Raises:
        Fenced: another process has opened the writer.
        LogError: the log cannot be read, so the missing records are unknown.
    """
    topic, partition = place
    start = log.start_offset(topic, partition)
    # Records that were deleted from `outbox.start` on are taken for the first ones of the outbox.
    missing = list(outbox.values)[max(0, start - outbox.start) :]
    offset = max(outbox.start, start)
    end = log.end_offset(topic, partition)
    while missing and offset < end:
        records = log.read(topic, partition, offset, _READ_RECORDS)
        if not records:
            raise LogError(f"{topic!r}[{partition}]: records {offset} to {end} must be readable, got none")
        for record in records:
            if missing and record.value == missing[0]:
                missing.pop(0)
        offset = records[-1].offset + 1
    if not missing:
        return max(end, offset)
    try:
        return writer.append(missing, time_ms=outbox.time_ms)
    except RecordRefused:
        pass
    return append_each(log, writer, place, Outbox(max(end, offset), outbox.time_ms, tuple(missing)), refused)


def append_each(log: Log, writer: Writer, place: tuple[str, int], outbox: Outbox, refused: Refused) -> int:
    """Append what the partition lacks record by record, those that the log refuses to `refused`; return the end offset.

    Raises:
        Fenced: another process has opened the writer.
        LogError: the log cannot be read or appended to.
    """
    topic, partition = place
    present = {record.value for record in _records(log, topic, partition, outbox.start)}
    for value in outbox.values:
        if value in present:
            continue
        try:
            writer.append([value], time_ms=outbox.time_ms)
        except RecordRefused as error:
            refused(value, str(error))
    return log.end_offset(topic, partition)


def _records(log: Log, topic: str, partition: int, start: int) -> Iterator[Record]:
    offset, end = max(start, log.start_offset(topic, partition)), log.end_offset(topic, partition)
    while offset < end:
        try:
            records = log.read(topic, partition, offset, _READ_RECORDS)
        except RecordsDamaged as error:
            offset = error.next_offset
            continue
        if not records:
            return
        yield from records
        offset = records[-1].offset + 1
