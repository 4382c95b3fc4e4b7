"""Exceptions that this project raises.

    MonolithError
    +-- ConfigError        a setting is unknown, of the wrong type or out of its range
    +-- WireError          bytes from outside do not parse, or break a rule of their format
    +-- LogError           the log cannot do what was asked
    |   +-- TopicMissing   the topic does not exist
    |   +-- OffsetTrimmed  the offset is older than what the log still holds
    +-- KvError            the key-value store cannot do what was asked
    +-- TableFull          no row is left in a table
    +-- CheckpointError    a checkpoint or snapshot is absent, torn or of another job
    +-- DeltaGap           a delta does not follow the last one applied
    +-- DenseGap           an update of the dense parameters is for other dense parameters than those held
    +-- NotReady           a process is asked before it can answer
    +-- RankFailed         a replica did not rank what it was asked to

A caller's wrong argument is a plain `ValueError`; a broken invariant of our own is an `assert`.
"""

from __future__ import annotations


class MonolithError(Exception):
    """Root of all errors that this project raises."""


class ConfigError(MonolithError):
    """A setting is unknown, of the wrong type or out of its range."""


class WireError(MonolithError):
    """Bytes from outside do not parse, or break a rule of their format."""


class LogError(MonolithError):
    """The log cannot do what was asked."""


class TopicMissing(LogError):
    """The topic does not exist; `topic` names it."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} does not exist: create it with `monolith topics`")
        self.topic = topic


class OffsetTrimmed(LogError):
    """The offset asked for is older than what the log still holds."""

    def __init__(self, topic: str, partition: int, offset: int, start: int) -> None:
        super().__init__(f"{topic!r}[{partition}]: offset {offset} is gone, the log starts at {start}")
        self.topic, self.partition, self.offset, self.start = topic, partition, offset, start


class KvError(MonolithError):
    """The key-value store cannot do what was asked."""


class TableFull(MonolithError):
    """No row is left in a table."""


class CheckpointError(MonolithError):
    """A checkpoint or snapshot is absent, torn or of another job."""


class DeltaGap(MonolithError):
    """A delta does not follow the last one applied: expected and got are (generation, seq)."""

    def __init__(self, expected: tuple[int, int], got: tuple[int, int]) -> None:
        super().__init__(f"delta gap: expected (generation, seq) {expected}, got {got}")
        self.expected, self.got = expected, got


class DenseGap(MonolithError):
    """An update of the dense parameters is for other dense parameters than those held: expected and got are CRC-32C of fingerprints."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"dense gap: expected fingerprint {expected:08x}, got {got:08x}")
        self.expected, self.got = expected, got


class NotReady(MonolithError):
    """A process is asked before it can answer."""


class RankFailed(MonolithError):
    """A replica did not rank what it was asked to; `code` is the gRPC status, for instance "INVALID_ARGUMENT" or "UNAVAILABLE"."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details = code, details
