"""Impressions and actions in canonical form: the one that the joiner's core reads (monolith_py/core/joiner/wire.hpp).

Writers of protobuf may split, repeat or reorder fields, or add unknown ones; our own do not. The core reads what our own write, and leaves
every other record to the functions here.
"""

from __future__ import annotations

from monolith_py.io.codec.events import decode_action
from monolith_py.io.codec.impression_view import parse_impression
from monolith_py.io.codec.messages import parse, serialize
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.pb import example_pb2 as pb


def canonical_impression(value: bytes, patterns: WirePatterns) -> tuple[bytes, int]:
    """Return the impression in `value` with its fields once and in order, and its event time.

    Raises:
        WireError: `parse_impression` refuses it.
    """
    message = parse_impression(value, patterns).message
    message.DiscardUnknownFields()
    return serialize(message), message.time_ms


def canonical_action(value: bytes) -> tuple[bytes, int]:
    """Return the action in `value` with its fields once and in order, and its event time.

    Raises:
        WireError: `decode_action` refuses it.
    """
    time_ms = decode_action(value).time_ms
    message = parse(pb.Action(), value)
    message.DiscardUnknownFields()
    return serialize(message), time_ms
