"""Errors of kafka-python as errors of the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)

from monolith_py.errors import LogError, RecordRefused

# A broker gives these for the same record again. kafka-python's idempotent producer fails every later record after any of them.
_REFUSALS = (
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)
_MESSAGE_CHARS = 500


@contextmanager
def mapped_errors(name: str) -> Iterator[None]:
    """Map errors of kafka-python to `LogError` with the cluster and the cause; `RecordRefused` for what the broker never takes."""
    try:
        yield
    except (KafkaError, OSError) as error:
        kind = RecordRefused if isinstance(error, _REFUSALS) else LogError
        raise kind(f"{name}: {str(error)[:_MESSAGE_CHARS] or type(error).__name__}") from error
