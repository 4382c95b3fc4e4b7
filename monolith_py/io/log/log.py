"""The Log seam: durable, partitioned, ordered streams of byte records; `open_log` picks the implementation by URL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from monolith_py.config import LogConfig
from monolith_py.config.security import LogSecurityConfig
from monolith_py.errors import ConfigError


class Record(NamedTuple):
    """One record of the log."""

    topic: str
    partition: int
    offset: int
    time_ms: int  # event time given at append
    value: bytes  # empty for Kafka's null


@dataclass(frozen=True)
class TopicInfo:
    """Identity and limits of a topic."""

    id: str  # of this topic and no other one: a topic that is deleted and made again has another id
    max_record_bytes: int | None = None  # largest value that a record may have, None without a limit
    retention_ms: int | None = None  # age at which the log deletes a record by itself, None for never
    retention_bytes: int | None = None  # size of a partition above which the log deletes its oldest records, None for no limit


class Writer(Protocol):
    """Atomic appends to one partition by one process at a time: a new writer of the same name fences the older one for good.

    Methods raise `Fenced` once a newer writer exists, and `LogError` if the log cannot be reached. For one thread at a time.
    """

    def append(self, values: Sequence[bytes], *, time_ms: int | Sequence[int]) -> int:
        """Append all values in order, or none of them; return an offset behind them, at or before that of the next record.

        After a `LogError` the partition has all of the values or none, and may still get them: `settle` before looking.

        Raises:
            RecordRefused: the log will never take one of the values, and has none; further appends are not affected.
        """
        ...

    def settle(self) -> None:
        """End a failed append: afterwards the partition has all of its values or none, and this does not change any more."""
        ...

    def close(self) -> None:
        """Free the connection."""
        ...


class Log(Protocol):
    """Durable streams for any number of appending and reading processes. Offsets of a partition grow and are never reused.

    All methods raise `TopicMissing` for an unknown topic and `LogError` if the log cannot be reached.
    """

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        """Create `topic`; do nothing if it exists."""
        ...

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        ...

    def describe(self, topic: str) -> TopicInfo:
        """Return identity and limits of a topic."""
        ...

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        """Append all values in order and return the offset after the last once they are durable.

        `time_ms` is event time: one for all values, or one for each.

        After a `LogError` the log has none of the values or, on Kafka, perhaps some or all: read it before appending again.

        Raises:
            RecordRefused: the log will never take one of the values; further appends are not affected.
        """
        ...

    def writer(self, topic: str, partition: int, name: str) -> Writer:
        """Return the writer `name` of the partition, and fence the one before it, in whatever process it is.

        Afterwards the partition has all values of the last append of the older writer, or none of them.
        """
        ...

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on; wait up to `timeout_s` for the first.

        An empty list means that there is no record yet, even if the end offset is larger: offsets may have holes (Kafka's control records).
        So read on from the last record's offset + 1, and stop at an empty read, not at an offset. Large values may come in smaller numbers.

        Raises:
            OffsetTrimmed: records at `offset` existed and are gone.
            RecordsDamaged: records at `offset` exist and cannot be decoded; read on at its `next_offset`.
            LogError: `offset` is beyond the end of the log: it lost records, or is another log.
        """
        ...

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        ...

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the next record."""
        ...

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        ...

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete records before `before_offset`."""
        ...

    def close(self) -> None:
        """Free connections and files."""
        ...


_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def is_topic_name(topic: str) -> bool:
    """Return whether `topic` is a valid name of a topic: Kafka's rule, for every log."""
    return _TOPIC.fullmatch(topic) is not None


def check_topic(topic: str, num_partitions: int) -> None:
    """Check the arguments of `Log.create_topic`."""
    if not is_topic_name(topic):
        raise ValueError(f"topic must be 1 to 249 letters, digits, '.', '_' or '-', got {topic!r}")
    if num_partitions < 1:
        raise ValueError(f"num_partitions must be >= 1, got {num_partitions}")


def event_times(time_ms: int | Sequence[int], num_values: int) -> Sequence[int]:
    """Check the arguments of `Log.append` and return the event time of each value."""
    times_ms = [time_ms] * max(num_values, 1) if isinstance(time_ms, int) else time_ms
    if min(times_ms, default=0) < 0:
        raise ValueError(f"time_ms must be >= 0, got {min(times_ms)}")
    if not isinstance(time_ms, int) and len(times_ms) != num_values:
        raise ValueError(f"time_ms must be one for each of {num_values} values, got {len(times_ms)}")
    return times_ms


def check_read(offset: int, max_records: int) -> None:
    """Check the arguments of `Log.read`."""
    if offset < 0 or max_records < 1:
        raise ValueError(f"offset must be >= 0 and max_records >= 1, got {offset} and {max_records}")


def open_log(where: str | LogConfig) -> Log:
    """Return the log at a URL, or of a job's section with its `security`.

    `sqlite:///FOLDER` (a fourth slash for an absolute path) or `kafka://host:port[,host:port]`. The environment has the password of Kafka
    (io/secret.py).

    Raises:
        ConfigError: the URL names no kind of log, or a secret or a file of TLS is missing.
        LogDenied: the cluster refuses the user, the password or a certificate.
    """
    url, security = (where, LogSecurityConfig()) if isinstance(where, str) else (where.url, where.security)
    if url.startswith("sqlite:///"):
        from monolith_py.io.log.sqlite import SqliteLog
        from monolith_py.io.sqlite_file import path_of_url

        return SqliteLog(path_of_url(url))
    if url.startswith("kafka://"):
        from monolith_py.io.log.kafka import KafkaLog

        return KafkaLog(url.removeprefix("kafka://").rstrip("/").split(","), security=security)
    raise ConfigError(f"log.url must begin with sqlite:/// or kafka://, got {url!r}")
