"""One partition of a SQLite log: a database file, with a connection for appends and one for reads, each for one thread at a time.

The table `writer` has the epoch of each writer by name: an append of a writer checks it in its own transaction. The table `identity` has
the topic's id. The values of an append of many bytes lie beside the database (value_files.py): `record.value` is then a text with the
place, and `tail` has the end of the last one.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from monolith_py.errors import Fenced, LogError
from monolith_py.io.log.value_files import Tail, ValueFiles
from monolith_py.io.sqlite_file import connect, mapped_errors, transaction

SCHEMA = """
CREATE TABLE record (offset INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE peak (time_ms INTEGER PRIMARY KEY, offset INTEGER NOT NULL);
CREATE TABLE bounds (start_offset INTEGER NOT NULL);
INSERT INTO bounds VALUES (0);
"""
# Absent in logs of older releases.
_WRITER_SCHEMA = "CREATE TABLE IF NOT EXISTS writer (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL)"
_NEXT_EPOCH = "INSERT INTO writer VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1"
_TAIL_SCHEMA = "CREATE TABLE IF NOT EXISTS tail (id INTEGER PRIMARY KEY CHECK (id = 0), first INTEGER NOT NULL, place INTEGER NOT NULL)"
_IDENTITY_SCHEMA = "CREATE TABLE IF NOT EXISTS identity (topic_id TEXT NOT NULL)"
# A read returns no more records after this many bytes of values.
_READ_BYTES = 32 << 20
# Records inserted by one statement: sqlite3 hands the GIL over and back for each statement, and for each row of an `executemany`.
_INSERT_RECORDS = 100
# An append of this many bytes writes its values beside the database: one more wait for the disk, and 40 % of the CPU time for 4 MB.
_BESIDE_BYTES = 64 << 10
# Records deleted by a trim in one transaction: appends run in between.
_TRIM_RECORDS = 500


class PartitionFile:
    """File of one partition."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path, self._busy_timeout_s = path, busy_timeout_s
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._files = ValueFiles(path)
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._closed = False

    def append(self, values: Sequence[bytes], times_ms: Sequence[int], fence: tuple[str, int] | None = None) -> int:
        """Append all values and return the end offset; `fence` has the name and the epoch of the writer.

        Raises:
            Fenced: the writer has a newer epoch.
        """
        with self._writing() as writer, transaction(writer):
            if fence is not None:
                self._check_fence(writer, *fence)
            end = _bounds(writer)[1]
            if values:
                stored = self._write_beside(writer, end, values) if sum(map(len, values)) >= _BESIDE_BYTES else values
                _insert_records(writer, end, times_ms, stored)
                (peak,) = writer.execute("SELECT max(time_ms) FROM peak").fetchone()
                for index, time_ms in enumerate(times_ms):
                    if peak is None or time_ms > peak:
                        peak = time_ms
                        writer.execute("INSERT INTO peak VALUES (?, ?)", (time_ms, end + index))
        return end + len(values)

    def _write_beside(self, writer: sqlite3.Connection, offset: int, values: Sequence[bytes]) -> list[str]:
        """Write the values of the records from `offset` on to a value file and return their places."""
        writer.execute(_TAIL_SCHEMA)
        row = writer.execute("SELECT first, place FROM tail").fetchone()
        try:
            places, tail = self._files.write(Tail(*row) if row else None, offset, values)
        except (FileNotFoundError, EOFError) as error:
            raise LogError(f"{self._path}: every record must have its value: {error}") from None
        writer.execute("INSERT OR REPLACE INTO tail VALUES (0, ?, ?)", tail)
        return places

    def topic_id(self) -> str:
        """Return the id of the topic, which its first partition has; make one if it has none."""
        with self._writing() as writer, transaction(writer):
            writer.execute(_IDENTITY_SCHEMA)
            writer.execute("INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT * FROM identity)", (secrets.token_hex(16),))
            (topic_id,) = writer.execute("SELECT topic_id FROM identity").fetchone()
        return str(topic_id)

    def open_writer(self, name: str) -> int:
        """Begin the next epoch of the writer `name` and return it."""
        with self._writing() as writer, transaction(writer):
            writer.execute(_WRITER_SCHEMA)
            writer.execute(_NEXT_EPOCH, (name,))
            (epoch,) = writer.execute("SELECT epoch FROM writer WHERE name = ?", (name,)).fetchone()
        return int(epoch)

    def check_fence(self, name: str, epoch: int) -> None:
        """Check that the writer `name` still has this epoch.

        Raises:
            Fenced: it has a newer one.
        """
        with self._writing() as writer:
            self._check_fence(writer, name, epoch)

    def rows(self, offset: int, max_records: int) -> list[tuple[int, int, bytes]]:
        """Return (offset, time_ms, value) of the records from `offset` on; none if the record at `offset` is gone."""
        with self._reading() as reader:
            try:
                rows = self._fetch(reader, offset, max_records)
            except (FileNotFoundError, EOFError) as error:
                # A trim may have deleted a file meanwhile, but not that of a record which the log still has.
                if _bounds(reader)[0] <= offset:
                    raise LogError(f"{self._path}: every record must have its value: {error}") from None
                rows = []
        return rows if rows and rows[0][0] == offset else []

    def _fetch(self, reader: sqlite3.Connection, offset: int, max_records: int) -> list[tuple[int, int, bytes]]:
        query = "SELECT offset, time_ms, value FROM record WHERE offset >= ? ORDER BY offset LIMIT ?"
        with closing(reader.execute(query, (offset, max_records))) as cursor:
            rows: list[tuple[int, int, bytes]] = []
            values, num_bytes = self._files.reader(), 0
            for number, time_ms, value in cursor:
                whole = values.read(value) if isinstance(value, str) else value
                rows.append((number, time_ms, whole))
                num_bytes += len(whole)
                if num_bytes >= _READ_BYTES:
                    break
        return rows

    def bounds(self) -> tuple[int, int]:
        """Return (start offset, end offset)."""
        with self._reading() as reader:
            return _bounds(reader)

    def offset_at(self, time_ms: int) -> int:
        """Return the first offset whose event time is >= `time_ms`, or the end offset."""
        with self._reading() as reader:
            start, end = _bounds(reader)
            row = reader.execute("SELECT offset FROM peak WHERE time_ms >= ? ORDER BY time_ms LIMIT 1", (time_ms,)).fetchone()
            if row and row[0] < start:  # the peak is trimmed: the first record late enough may be no peak
                row = reader.execute(
                    "SELECT offset FROM record WHERE offset >= ? AND time_ms >= ? ORDER BY offset LIMIT 1", (start, time_ms)
                ).fetchone()
        return int(row[0]) if row else end

    def trim(self, before_offset: int) -> None:
        """Move the start offset, then delete the records before it in small transactions."""
        while True:
            with self._writing() as writer, transaction(writer):
                start, end = _bounds(writer)
                start = max(start, min(before_offset, end))
                writer.execute("UPDATE bounds SET start_offset = ?", (start,))
                # The last trimmed peak stays: a look-up that finds it knows that the answer may be no peak.
                writer.execute("DELETE FROM peak WHERE offset < (SELECT max(offset) FROM peak WHERE offset < ?)", (start,))
                (oldest,) = writer.execute("SELECT min(offset) FROM record").fetchone()
                if oldest is None or oldest >= start:
                    self._files.trim(start)
                    return
                stop = min(start, oldest + _TRIM_RECORDS)
                writer.execute("DELETE FROM record WHERE offset < ?", (stop,))

    def close(self) -> None:
        """Close both connections and the value files."""
        with self._write_lock, self._read_lock:
            self._closed = True
            for connection in (self._writer, self._reader):
                if connection is not None:
                    connection.close()
            self._writer = self._reader = None
            self._files.close()

    def _check_fence(self, writer: sqlite3.Connection, name: str, epoch: int) -> None:
        (newest,) = writer.execute("SELECT epoch FROM writer WHERE name = ?", (name,)).fetchone()
        if newest != epoch:
            raise Fenced(f"{self._path}: writer {name!r} must have epoch {newest}, got {epoch}: another process has taken over")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, mapped_errors(LogError, self._path):
            self._writer = self._writer or self._open()
            yield self._writer

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, mapped_errors(LogError, self._path):
            self._reader = self._reader or self._open()
            yield self._reader

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise LogError(f"{self._path}: the log is closed")
        return connect(self._path, create=False, busy_timeout_s=self._busy_timeout_s)


def _bounds(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return (start offset, end offset) of the partition; they are equal if it has no record."""
    row = connection.execute("SELECT start_offset, (SELECT max(offset) FROM record) FROM bounds").fetchone()
    start, newest = int(row[0]), row[1]
    return start, start if newest is None else max(start, int(newest) + 1)


def _insert_records(writer: sqlite3.Connection, offset: int, times_ms: Sequence[int], values: Sequence[bytes | str]) -> None:
    """Insert records from `offset` on."""
    for start in range(0, len(values), _INSERT_RECORDS):
        part = range(start, min(start + _INSERT_RECORDS, len(values)))
        parameters = [one for index in part for one in (offset + index, times_ms[index], values[index])]
        writer.execute(f"INSERT INTO record VALUES {', '.join(['(?, ?, ?)'] * len(part))}", parameters)


def file_name(partition: int) -> str:
    """Return the name of a partition's file in the folder of its topic."""
    return f"{partition:05d}.db"
