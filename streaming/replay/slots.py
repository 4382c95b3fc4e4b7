"""Files of encoded records, between the pipeline of a replay and its appends."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from monolith_py.errors import WireError

_HEADER = struct.Struct("<Bq")  # version, event time
_LENGTH = struct.Struct("<I")
_VERSION = 2


@dataclass(frozen=True)
class Slot:
    """Records of one partition and slot of time, in order; `time_ms` is the newest event time of their examples."""

    time_ms: int
    values: tuple[bytes, ...]


def encode_slot_file(slot: Slot) -> bytes:
    """Return the content of the file of `slot`."""
    parts = [_HEADER.pack(_VERSION, slot.time_ms)]
    for value in slot.values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def decode_slot_file(content: bytes) -> Slot:
    """Return the slot of a file.

    Raises:
        WireError: the file has another version or is cut.
    """
    try:
        version, time_ms = _HEADER.unpack_from(content)
        if version != _VERSION:
            raise WireError(f"slot.version must be {_VERSION}, got {version}")
        values, at = [], _HEADER.size
        while at < len(content):
            (length,) = _LENGTH.unpack_from(content, at)
            at += _LENGTH.size
            values.append(content[at : at + length])
            at += length
    except struct.error as error:
        raise WireError(f"slot must be whole, got {len(content)} bytes: {error}") from None
    if at != len(content):
        raise WireError(f"slot must have {at} bytes, got {len(content)}")
    return Slot(time_ms, tuple(values))
