"""Lock of a file, so that one process at a time holds the state of a job."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monolith_py.errors import AlreadyRunning, MonolithError

_logger = logging.getLogger(__name__)

_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def role_lock(path: Path, role: str, error: type[MonolithError]) -> Iterator[None]:
    """Hold the lock of the file at `path` for the block; the system frees it if the process dies. The file names its holder.

    A file system without locks is a warning: nothing then stops a second process.

    Raises:
        AlreadyRunning: another process holds it.
        MonolithError: the file cannot be written: `error`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as cause:
        raise error(f"{path}: {cause}") from cause
    try:
        _lock(descriptor, path, role)
        _name_holder(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _name_holder(descriptor: int, path: Path) -> None:
    """Write host and process id, for the error of a second process; on a full disk the lock has no text."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()}".encode(), 0)
    except OSError as cause:
        _logger.warning("%s: held, but the holder cannot be written to it: %s", path, cause)


def _lock(descriptor: int, path: Path, role: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        raise AlreadyRunning(f"{path}: one {role} at a time must run, got another one (host and process id: {holder})") from None
    except OSError as cause:
        if cause.errno not in _NOT_SUPPORTED:
            raise
        _logger.warning("%s: the file system has no locks, so nothing stops a second %s: %s", path, role, cause)
