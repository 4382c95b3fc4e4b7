"""Exactly-once appends to the log through an outbox in Kv.

A step of the joiner writes its state, its offsets and the records to append in one Kv transaction, then appends. If the process dies in
between, the next start finds the same bytes in the outbox, reads the log from the recorded end offset to see which records it has, and
appends the others. No step is computed twice: a second computation, over other batches of input, could give other examples.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from monolith_py.errors import LogError, WireError
from monolith_py.io import Log

_HEADER = struct.Struct("<Bqq")  # version, start offset, event time
_LENGTH = struct.Struct("<I")
_VERSION = 1
_READ_RECORDS = 256


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


def deliver(log: Log, topic: str, partition: int, outbox: Outbox) -> int:
    """Append the records of `outbox` that the partition lacks and return the offset after the last record.

    Raises:
        LogError: the log cannot be read, so the missing records are unknown.
    """
    missing = list(outbox.values)
    offset = max(outbox.start, log.start_offset(topic, partition))
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
    return log.append(topic, missing, time_ms=outbox.time_ms, partition=partition)
