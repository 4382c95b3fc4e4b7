"""Mutations of encoded records: of their bytes, and of the fields of protobuf messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_INTEGERS = (0, 1, -1, 2, 127, 128, 2**31 - 1, -(2**31), 2**62, 2**63 - 1, -(2**63), 10**9, 1_700_000_000, 1_700_000_000_000_000)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 3e38, -3e38, float("nan"), float("inf"), float("-inf"))
_TEXTS = ("", "x", "undefined", "null", "\x00", "\u00e4\U0001f600", "x" * 513, "x" * 100_000, "user", "click", "../..", "%s %d {}")
_FLOAT_TYPES = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)


def mutated_bytes(rng: random.Random, value: bytes, other: bytes) -> bytes:
    """Return `value` with bytes flipped, cut, repeated, or spliced with those of `other`."""
    changed = bytearray(value)
    kind = rng.randrange(7)
    if kind == 0 or not changed:
        return rng.choice([b"", rng.randbytes(rng.randrange(200)), other])
    at = rng.randrange(len(changed))
    if kind <= 2:
        for _ in range(rng.choice([1, 1, 2, 8])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif kind == 3:
        del changed[at:]
    elif kind == 4:
        del changed[at : at + rng.randrange(1, 16)]
    elif kind == 5:
        changed[at:at] = rng.choice([rng.randbytes(rng.randrange(1, 16)), b"\xff" * 10, bytes(8)])
    else:
        changed[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(changed)


def mutated_message(rng: random.Random, message: Message) -> bytes:
    """Return the bytes of `message` after one to three of its fields were set to extreme values, cleared or repeated."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        _mutate_field(rng, message)
    return message.SerializeToString()


def _mutate_field(rng: random.Random, message: Message) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        part = getattr(message, field.name)
        if field.message_type.GetOptions().map_entry:
            _mutate_map(rng, part, field.message_type.fields_by_name)
        elif not field.is_repeated:
            _mutate_field(rng, part)
        elif len(part) and rng.random() < 0.8:
            _mutate_field(rng, rng.choice(part))
        else:
            part.add()
    elif field.is_repeated:
        values = getattr(message, field.name)
        _mutate_list(rng, values, lambda: _scalar(rng, field))
    else:
        _set(message, field.name, _scalar(rng, field))


def _mutate_map(rng: random.Random, values: Any, entry: Mapping[str, FieldDescriptor]) -> None:
    """Remove an entry of a map of scalars, or set one."""
    if values and rng.random() < 0.4:
        del values[rng.choice(list(values))]
        return
    key = rng.choice(list(values)) if values and rng.random() < 0.5 else _scalar(rng, entry["key"])
    with suppress(ValueError, TypeError):  # out of the field's range
        values[key] = _scalar(rng, entry["value"])


def _mutate_list(rng: random.Random, values: object, scalar: Callable[[], object]) -> None:
    items = list(values)  # type: ignore[call-overload]
    kind = rng.randrange(4)
    if kind == 0 and items:
        items.pop(rng.randrange(len(items)))
    elif kind == 1 and items:
        items[rng.randrange(len(items))] = scalar()
    elif kind == 2:
        items *= rng.choice([0, 2, 50])
    else:
        items.append(scalar())
    kept = list(values)  # type: ignore[call-overload]
    del values[:]  # type: ignore[attr-defined]
    try:
        values.extend(items)  # type: ignore[attr-defined]
    except (ValueError, TypeError):  # a value out of the field's range
        del values[:]  # type: ignore[attr-defined]
        values.extend(kept)  # type: ignore[attr-defined]


def _scalar(rng: random.Random, field: FieldDescriptor) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 7, 8, 64]))
    if field.type in _FLOAT_TYPES:
        return rng.choice(_FLOATS)
    return rng.choice(_INTEGERS)


def _set(message: Message, name: str, value: object) -> None:
    try:
        setattr(message, name, value)
    except (ValueError, TypeError):  # out of the field's range
        message.ClearField(name)
