"""The Log on SQLite files: embedded, durable, for any number of processes on one machine.

A log is a folder, a topic a folder in it, a partition one database file, so writers of different partitions never wait for each other:

    LOG/impressions/00000.db  00001.db  ...

and files for the values of appends of 64 KiB and more (value_files.py).

A partition has the tables `record(offset, time_ms, value)` and `peak`: the records later in event time than all before them. The first
record at or after a time is always a peak, so a look-up of a time is one index search, although event times are out of order.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from monolith_py.errors import LogError, OffsetTrimmed, TopicMissing
from monolith_py.io.log.log import Record, TopicInfo, check_read, check_topic, event_times, is_topic_name
from monolith_py.io.log.sqlite_partition import SCHEMA, PartitionFile, file_name
from monolith_py.io.log.value_files import sync_folder
from monolith_py.io.sqlite_file import BUSY_TIMEOUT_S, connect, mapped_errors

# Large values lie beside the database. CPU time of an append of one small record: 190 us with 4 KiB, 130 with 8, 240 with 32.
_PAGE_BYTES = 8192
# Pauses between the reads of a waiting reader: they double from the first to the last.
_SHORTEST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.01


class SqliteLog:
    """A `Log` in the folder `path`, created if absent. Safe for threads; not usable across a fork.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     log = SqliteLog(Path(folder) / "log")
    ...     log.create_topic("actions")
    ...     end = log.append("actions", [b"a", b"b"], time_ms=1_000)
    ...     values = [record.value for record in log.read("actions", 0, 0, max_records=10)]
    ...     log.close()
    >>> end, values
    (2, [b'a', b'b'])
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._path, self._busy_timeout_s = Path(path), busy_timeout_s
        self._closed = False
        self._lock = threading.Lock()
        self._partitions: dict[str, list[PartitionFile]] = {}
        with mapped_errors(LogError, self._path):
            self._path.mkdir(parents=True, exist_ok=True)

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        """Create `topic`; do nothing if it exists."""
        check_topic(topic, num_partitions)
        folder = self._path / topic
        with mapped_errors(LogError, folder):
            if folder.exists():
                return
            # The topic appears with all partitions at once: other processes may read or create it meanwhile.
            staging = self._path / f"~{secrets.token_hex(8)}"
            staging.mkdir()
            try:
                for partition in range(num_partitions):
                    connection = connect(staging / file_name(partition), create=True, page_bytes=_PAGE_BYTES)
                    connection.executescript(SCHEMA)
                    connection.close()
                sync_folder(staging)
                os.rename(staging, folder)
                sync_folder(self._path)
            except OSError:
                if not folder.exists():
                    raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def num_partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        return len(self._topic(topic))

    def describe(self, topic: str) -> TopicInfo:
        """Return the identity of a topic; it has no limits."""
        return TopicInfo(self._topic(topic)[0].topic_id())

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        """Append all values in order, or none of them, and return the offset after the last once they are on disk."""
        times_ms = event_times(time_ms, len(values))
        return self._partition(topic, partition).append(values, times_ms)

    def writer(self, topic: str, partition: int, name: str) -> SqliteWriter:
        """Return the writer `name` of the partition, and fence the one before it."""
        part = self._partition(topic, partition)
        return SqliteWriter(part, name, part.open_writer(name))

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return up to `max_records` records from `offset` on; wait up to `timeout_s` for the first.

        Raises:
            OffsetTrimmed: records at `offset` existed and are gone.
            LogError: `offset` is beyond the end of the log.
        """
        check_read(offset, max_records)
        part = self._partition(topic, partition)
        deadline = time.monotonic() + timeout_s
        pause_s = _SHORTEST_PAUSE_S
        while True:
            rows = part.rows(offset, max_records)
            if rows:
                return [Record(topic, partition, row[0], row[1], row[2]) for row in rows]
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                break
            time.sleep(min(pause_s, remaining_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        start, end = part.bounds()
        if offset < start:
            raise OffsetTrimmed(topic, partition, offset, start)
        if offset > end:
            raise LogError(f"{topic!r}[{partition}]: offset {offset} is beyond the end of the log, {end}")
        return []

    def start_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the oldest record."""
        return self._partition(topic, partition).bounds()[0]

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """Return the offset of the next record."""
        return self._partition(topic, partition).bounds()[1]

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        return self._partition(topic, partition).offset_at(time_ms)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete records before `before_offset`, and value files without any other; later records reuse the pages of the rest."""
        self._partition(topic, partition).trim(before_offset)

    def num_bytes(self, topic: str) -> int:
        """Return the bytes of the topic's files. A trim deletes whole value files; it shrinks no other, later records reuse the space."""
        self._topic(topic)
        with mapped_errors(LogError, self._path):
            return sum(map(_size_of, (self._path / topic).iterdir()))

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._closed = True
            for partitions in self._partitions.values():
                for partition in partitions:
                    partition.close()
            self._partitions.clear()

    def _topic(self, topic: str) -> list[PartitionFile]:
        with self._lock:
            if self._closed:
                raise LogError(f"{self._path}: the log is closed")
            partitions = self._partitions.get(topic)
            if partitions is None:
                files = sorted((self._path / topic).glob("*.db")) if is_topic_name(topic) else []
                if not files:
                    raise TopicMissing(topic)
                partitions = self._partitions[topic] = [PartitionFile(file, self._busy_timeout_s) for file in files]
            return partitions

    def _partition(self, topic: str, partition: int) -> PartitionFile:
        partitions = self._topic(topic)
        if not 0 <= partition < len(partitions):
            raise LogError(f"{topic!r}: partition must be in [0, {len(partitions)}), got {partition}")
        return partitions[partition]


class SqliteWriter:
    """A `Writer` of one partition: its epoch is checked in the transaction of each append."""

    def __init__(self, part: PartitionFile, name: str, epoch: int) -> None:
        self._part, self._fence = part, (name, epoch)

    def append(self, values: Sequence[bytes], *, time_ms: int | Sequence[int]) -> int:
        """Append all values in order, or none of them, and return the offset after the last once they are on disk."""
        return self._part.append(values, event_times(time_ms, len(values)), self._fence)

    def settle(self) -> None:
        """Check the epoch: a failed append has left nothing behind."""
        self._part.check_fence(*self._fence)

    def close(self) -> None:
        """Do nothing: the log closes its files."""


def _size_of(path: Path) -> int:
    """Return the bytes of a file, 0 if it is gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
