"""The Kv on one SQLite file: embedded, durable, for any number of processes on one machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from monolith_py.errors import KvError
from monolith_py.io.kv.kv import check_expected
from monolith_py.io.sqlite_file import connect, mapped_errors, transaction

# Keys of one SELECT and entries of one step of a scan.
_CHUNK = 500


class SqliteKv:
    """A `Kv` in the file `path`, created if absent. Safe for threads; not usable across a fork."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        with mapped_errors(KvError, self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = connect(self._path, create=True)
            try:
                # Keys are UTF-8 bytes: their order is the order of a prefix scan.
                self._writer.execute("CREATE TABLE IF NOT EXISTS entry (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
                self._reader = connect(self._path, create=False)
            except BaseException:  # a full disk, for instance
                self._writer.close()
                raise

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, None for an absent one."""
        encoded = [key.encode() for key in keys]
        found: dict[bytes, bytes] = {}
        with self._read_lock, mapped_errors(KvError, self._path):
            for start in range(0, len(encoded), _CHUNK):
                chunk = encoded[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                found.update(self._reader.execute(f"SELECT key, value FROM entry WHERE key IN ({marks})", chunk))
        return [found.get(key) for key in encoded]

    def write(self, puts: Mapping[str, bytes], deletes: Sequence[str] = (), expect: Mapping[str, bytes | None] | None = None) -> None:
        """Put, then delete, in one atomic, durable step: a key in both is absent afterwards."""
        with self._write_lock, mapped_errors(KvError, self._path), transaction(self._writer):
            if expect:
                rows = (self._writer.execute("SELECT value FROM entry WHERE key = ?", (key.encode(),)).fetchone() for key in expect)
                check_expected(expect, [None if row is None else row[0] for row in rows])
            self._writer.executemany(
                "INSERT INTO entry VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                ((key.encode(), value) for key, value in puts.items()),
            )
            self._writer.executemany("DELETE FROM entry WHERE key = ?", ((key.encode(),) for key in deletes))

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield every (key, value) with a key that starts with `prefix`, in the order of the keys' bytes."""
        start = prefix.encode()
        stop = start + b"\xff"  # UTF-8 never has this byte
        while True:
            with self._read_lock, mapped_errors(KvError, self._path):
                rows = self._reader.execute(
                    "SELECT key, value FROM entry WHERE key >= ? AND key < ? ORDER BY key LIMIT ?", (start, stop, _CHUNK)
                ).fetchall()
            for key, value in rows:
                yield key.decode(), value
            if len(rows) < _CHUNK:
                return
            start = rows[-1][0] + b"\x00"

    def close(self) -> None:
        """Close the file."""
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()
