"""SQLite database files shared by processes: path of a URL, settings of a connection, mapping of errors.

Every commit is on disk before it returns (write-ahead log, `synchronous=FULL`): an acknowledged write survives the death of any process and
a loss of power. Readers never wait for a writer; writers of one file wait for each other, up to `BUSY_TIMEOUT_S`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monolith_py.errors import MonolithError

# Longer than any write transaction of ours, shorter than a supervisor's retry.
BUSY_TIMEOUT_S = 10.0
# Measured with 4, 8 and 16 KiB: as fast as any for batches of small values, a quarter less work than 4 KiB for values of 50 KB.
_PAGE_BYTES = 8192
_SCHEME = "sqlite:///"


def path_of_url(url: str) -> Path:
    """Return the path in `sqlite:///PATH`: relative to the working directory, or absolute with a fourth slash.

    >>> path_of_url("sqlite:////var/lib/monolith/log")
    PosixPath('/var/lib/monolith/log')
    """
    if not url.startswith(_SCHEME) or len(url) == len(_SCHEME):
        raise ValueError(f"url must be sqlite:///PATH, got {url!r}")
    return Path(url[len(_SCHEME) :])


def connect(path: Path, *, create: bool, busy_timeout_s: float = BUSY_TIMEOUT_S, page_bytes: int = _PAGE_BYTES) -> sqlite3.Connection:
    """Return a connection to the database at `path` in autocommit mode, usable from any one thread at a time.

    Without `create` an absent file is an error. `page_bytes` is for a new file.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        if create:
            connection.execute(f"PRAGMA page_size = {page_bytes}")
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one write transaction: afterwards all of it is durable, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def mapped_errors(kind: type[MonolithError], path: Path) -> Iterator[None]:
    """Map errors of SQLite and the file system to `kind` with the file and the cause."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise kind(f"{path}: {error}") from error
