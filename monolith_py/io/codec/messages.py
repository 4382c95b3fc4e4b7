"""Protobuf messages to and from bytes."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from monolith_py.errors import WireError

_Message = TypeVar("_Message", bound=Message)


def serialize(message: Message) -> bytes:
    """Return `message` as bytes, equal messages as equal bytes."""
    return message.SerializeToString(deterministic=True)


def parse(message: _Message, value: bytes) -> _Message:
    """Fill the empty `message` from `value` and return it.

    Raises:
        WireError: `value` is no message of this type.
    """
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        descriptor = message.DESCRIPTOR
        raise WireError(f"{descriptor.name} must be a {descriptor.full_name} message, got {len(value)} bytes: {error}") from None
    return message
