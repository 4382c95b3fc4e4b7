"""Errors of kafka-python as errors of the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    AuthorizationError,
    IllegalSaslStateError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerFencedError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    UnsupportedForMessageFormatError,
)

from monolith_py.errors import Fenced, LogDenied, LogError, RecordRefused

# A broker gives these for the same record again. kafka-python's idempotent producer fails every later record after any of them.
_REFUSALS = (
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)
# Of a transactional producer: a newer one of its transactional id exists, or the broker has aborted its transaction after a timeout.
_FENCES = (ProducerFencedError, InvalidProducerEpochError)
# Refusals of the user, the password or a permission.
_DENIALS = (AuthorizationError, IllegalSaslStateError, SaslAuthenticationFailedError)
_MESSAGE_CHARS = 500


@contextmanager
def mapped_errors(name: str) -> Iterator[None]:
    """Map errors of kafka-python to `LogError` with the cluster and the cause; `RecordRefused` or `LogDenied` for what it never takes."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise _kind(error)(f"{name}: {str(error)[:_MESSAGE_CHARS] or type(error).__name__}") from error


@contextmanager
def writer_errors(name: str) -> Iterator[None]:
    """Map errors of a transactional producer as `mapped_errors` does, and those of a producer that was fenced to `Fenced`."""
    try:
        with mapped_errors(name):
            yield
    except LogError as error:
        # A producer that has failed once wraps its first error in later ones.
        causes = (error.__cause__, *getattr(error.__cause__, "args", ()))
        if any(isinstance(cause, _FENCES) for cause in causes):
            raise Fenced(f"{name}: another process has taken over, or this one stood still for too long: {error}") from error
        raise


def _kind(error: Exception) -> type[LogError]:
    # kafka-python wraps the refusal of an idempotent producer in a plain KafkaError.
    if isinstance(error, _DENIALS) or "AuthorizationFailedError" in str(error):
        return LogDenied
    return RecordRefused if isinstance(error, _REFUSALS) else LogError
