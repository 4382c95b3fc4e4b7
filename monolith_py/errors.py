"""Exceptions of this project.

    MonolithError
    +-- ConfigError            a setting is unknown, of the wrong type or out of range
    +-- WireError              bytes from outside cannot be parsed or break a rule of their format
    +-- LogError               an operation of the log failed
    |   +-- TopicMissing       the topic does not exist
    |   +-- OffsetTrimmed      the offset is older than the oldest record of the log
    |   +-- RecordRefused      the log will never take this record
    |   +-- RecordsDamaged     the log has these records and cannot give them
    |   +-- LogDenied          the log refuses the user, the password, a certificate or a permission
    +-- KvError                an operation of the key-value store failed
    |   +-- KvDenied           the store refuses the user, the password, a certificate or a permission
    +-- StateMismatch          the state in the store belongs to another log or job, or is older than the log
    +-- AlreadyRunning         another process of the same role holds the state
    +-- StepsMissing           steps of the joiner are missing in topic `examples`
    +-- Fenced                 another process has taken over the writing
    +-- ClockStepped           the wall clock went back
    +-- TableFull              a table has no free row
    +-- PoisonedBatch          a batch has a loss or gradient that is not finite
    +-- ModelNotFinite         the model has a parameter or row that is not finite
    +-- CheckpointError        a checkpoint or snapshot is absent, torn, damaged or of another job
    |   +-- CheckpointVersion  a checkpoint has another format version
    +-- ObjectError            an operation of the object store failed
    |   +-- ObjectMissing      there is no such object
    +-- ArchiveError           a file of an archive or table cannot be read or written, or is of another job
    +-- DeltaGap               a delta does not follow the last applied one
    +-- DeltaConflict          two trainers have published deltas of one generation
    +-- UpdatesRefused         the guard has refused updates that the model has
    +-- ModelReplaced          a generation does not descend from the model held
    +-- DigestMismatch         the rows or dense parameters of a replica are not the trainer's
    +-- DenseGap               an update of the dense parameters does not fit the ones held
    +-- NotReady               a process cannot answer yet
    +-- ConditionFailed        the model held is not the one that a request asks for
    +-- Overloaded             a process has more work than it can finish in time
    +-- RankFailed             a replica failed to rank a request
    +-- ProbeFailed            a click did not reach the served scores in time

A wrong argument of a caller is a plain `ValueError`; a broken invariant of our own is an `assert`.
"""

from __future__ import annotations

from pathlib import Path


class MonolithError(Exception):
    """Root of all errors that this project raises."""


class ConfigError(MonolithError):
    """A setting is unknown, of the wrong type or out of range."""


class WireError(MonolithError):
    """Bytes from outside cannot be parsed or break a rule of their format."""


class LogError(MonolithError):
    """An operation of the log failed."""


class TopicMissing(LogError):
    """The topic `topic` does not exist."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} does not exist: create it with `monolith topics`")
        self.topic = topic


class OffsetTrimmed(LogError):
    """The offset is older than the oldest record of the log, at `start`."""

    def __init__(self, topic: str, partition: int, offset: int, start: int) -> None:
        super().__init__(f"{topic!r}[{partition}]: offset {offset} is gone, the log starts at {start}")
        self.topic, self.partition, self.offset, self.start = topic, partition, offset, start


class RecordRefused(LogError):
    """The log will never take this record: it is too large, or breaks a rule of its topic."""


class RecordsDamaged(LogError):
    """The records [offset, next_offset) cannot be decoded: their batch is damaged, or has an unknown compression."""

    def __init__(self, topic: str, partition: int, offset: int, next_offset: int, cause: str) -> None:
        super().__init__(f"{topic!r}[{partition}]: records {offset} to {next_offset - 1} cannot be read: {cause}")
        self.topic, self.partition, self.offset, self.next_offset, self.cause = topic, partition, offset, next_offset, cause


class LogDenied(LogError):
    """The log refuses the user, the password, a certificate or a permission: no further attempt helps."""


class KvError(MonolithError):
    """An operation of the key-value store failed."""


class KvDenied(KvError):
    """The store refuses the user, the password, a certificate or a permission: no further attempt helps."""


class StateMismatch(MonolithError):
    """The state in the store belongs to another log or job, or is older than the log."""


class AlreadyRunning(MonolithError):
    """Another process of the same role holds the state of the job."""


class StepsMissing(MonolithError):
    """Steps of the joiner are missing in topic `examples`: their examples would never be learnt."""


class Fenced(MonolithError):
    """Another process has taken over the writing to a partition of the log: this one must let go of it."""


class ClockStepped(MonolithError):
    """The wall clock went back by more than `log.max_clock_skew_s`."""


class TableFull(MonolithError):
    """A table has no free row."""


class PoisonedBatch(MonolithError):
    """A batch has a loss or gradient that is not finite; the trainer did not learn from it."""


class ModelNotFinite(MonolithError):
    """A parameter or row of the model is NaN or infinite: the trainer stops."""


class CheckpointError(MonolithError):
    """A checkpoint or snapshot is absent, torn, damaged or of another job."""


class CheckpointVersion(CheckpointError):
    """The checkpoint at `path` has another format version: `expected` and `got`."""

    def __init__(self, path: Path, expected: int, got: int) -> None:
        super().__init__(f"{path}: format version must be {expected}, got {got}: it was written by another release of monolith-py")
        self.path, self.expected, self.got = path, expected, got


class ObjectError(MonolithError):
    """An operation of the object store failed."""


class ObjectMissing(ObjectError):
    """There is no such object."""


class ArchiveError(MonolithError):
    """A file of an archive or table cannot be read or written, or is of another job."""


class DeltaGap(MonolithError):
    """A delta does not follow the last applied one; `expected` and `got` are (generation, seq)."""

    def __init__(self, expected: tuple[int, int], got: tuple[int, int]) -> None:
        super().__init__(f"delta gap: expected (generation, seq) {expected}, got {got}")
        self.expected, self.got = expected, got


class DeltaConflict(MonolithError):
    """Two deltas of one number have different content, or those of one generation come from two trainers."""


class UpdatesRefused(MonolithError):
    """The guard has refused updates that the model has."""


class ModelReplaced(MonolithError):
    """Generation `generation` starts a model that does not descend from the one held, at (generation, seq) `held`."""

    def __init__(self, generation: int, held: tuple[int, int]) -> None:
        super().__init__(f"generation {generation} does not descend from the model at {held}: load a checkpoint of it")
        self.generation, self.held = generation, held


class DigestMismatch(MonolithError):
    """The digest of a replica is not that of the trainer at the same delta."""


class DenseGap(MonolithError):
    """An update of the dense parameters does not fit the ones held; `expected` and `got` are fingerprints (CRC-32C)."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"dense gap: expected fingerprint {expected:08x}, got {got:08x}")
        self.expected, self.got = expected, got


class NotReady(MonolithError):
    """A process cannot answer yet."""


class ConditionFailed(MonolithError):
    """The model held is not the one that a request asks for: another version, or too old."""


class Overloaded(MonolithError):
    """A process has more work than it can finish in time."""


class RankFailed(MonolithError):
    """A replica failed to rank a request; `code` is the gRPC status, for instance "INVALID_ARGUMENT" or "UNAVAILABLE"."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details = code, details


class ProbeFailed(MonolithError):
    """A click did not reach the served scores in time; `part` is where it stopped: serve, join, train or apply."""

    def __init__(self, part: str, rule: str) -> None:
        super().__init__(f"{part}: {rule}")
        self.part = part
