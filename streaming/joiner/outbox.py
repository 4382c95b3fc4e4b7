"""Exactly-once appends to the log through an outbox in Kv.

A step of the joiner writes its state, its offsets and the records to append in one Kv transaction, then appends. If the process dies in
between, the next start finds the same bytes in the outbox, reads the log from the recorded end offset to see which records it has, and
appends the others. No step is computed twice: a second computation, over other batches of input, could give other examples.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from monolith_py.errors import LogError, RecordRefused, RecordsDamaged, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import examples_metadata

_HEADER = struct.Struct("<Bqq")  # version, start offset, event time
_LENGTH = struct.Struct("<I")
_VERSION = 1
_READ_RECORDS = 256
_MOST_FOREIGN = 1000
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


def deliver(log: Log, topic: str, partition: int, outbox: Outbox, refused: Refused) -> int:
    """Append the records of `outbox` that the partition lacks and return the offset after the last record.

    Raises:
        LogError: the log cannot be read, so the missing records are unknown.
    """
    start = log.start_offset(topic, partition)
    # Only this joiner appends here: what was deleted from `outbox.start` on were the first records of the outbox.
    missing = list(outbox.values)[max(0, start - outbox.start) :]
    offset = max(outbox.start, start)
    end = log.end_offset(topic, partition)
    while missing and offset < end:
        records = log.read(topic, partition, offset, _READ_RECORDS, timeout_s=1.0)
        if not records:
            raise LogError(f"{topic!r}[{partition}]: records {offset} to {end} must be readable, got none")
        for record in records:
            if missing and record.value == missing[0]:
                missing.pop(0)
        offset = records[-1].offset + 1
    if not missing:
        return max(end, offset)
    try:
        return log.append(topic, missing, time_ms=outbox.time_ms, partition=partition)
    except RecordRefused:
        pass
    return append_each(log, topic, partition, Outbox(max(end, offset), outbox.time_ms, tuple(missing)), refused)


def append_each(log: Log, topic: str, partition: int, outbox: Outbox, refused: Refused) -> int:
    """Append what the partition lacks record by record, those that the log refuses to `refused`; return the end offset.

    Raises:
        LogError: the log cannot be read or appended to.
    """
    present = {record.value for record in _records(log, topic, partition, outbox.start)}
    for value in outbox.values:
        if value in present:
            continue
        try:
            log.append(topic, [value], time_ms=outbox.time_ms, partition=partition)
        except RecordRefused as error:
            refused(value, str(error))
    return log.end_offset(topic, partition)


def num_foreign(log: Log, topic: str, partition: int, start: int, own: Sequence[bytes]) -> int:
    """Return the number of records from `start` on, counted up to 1,000, that are neither in `own` nor those of a replay.

    Raises:
        LogError: the log cannot be read.
    """
    values = set(own)
    records = _records(log, topic, partition, start)
    foreign = (record for record in records if record.value not in values and not _is_replayed(record.value))
    return sum(1 for _ in islice(foreign, _MOST_FOREIGN))


def _records(log: Log, topic: str, partition: int, start: int) -> Iterator[Record]:
    offset, end = max(start, log.start_offset(topic, partition)), log.end_offset(topic, partition)
    while offset < end:
        try:
            records = log.read(topic, partition, offset, _READ_RECORDS, timeout_s=1.0)
        except RecordsDamaged as error:
            offset = error.next_offset
            continue
        if not records:
            return
        yield from records
        offset = records[-1].offset + 1


def _is_replayed(value: bytes) -> bool:
    """Return whether a record has metadata of its writer: those of a replay have, those of a joiner do not."""
    try:
        return bool(examples_metadata(value))
    except WireError:
        return False
