"""Values beside the database of a partition of a SQLite log: each is written once, not to the write-ahead log and then to the database.

    LOG/examples/00000.db  00000.00000000000000000000.values  00000.00000000000000012345.values

A file has the offset of its first record in its name, and only grows; a full one is followed by another. What is committed is never written
again. Bytes after the committed ones are those of an append that failed: the next one overwrites them. A trim deletes whole files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

# A file this large is followed by another.
FILE_BYTES = 64 << 20
# A read of a small value brings those behind it.
_AHEAD_BYTES = 64 << 10
# Most buffers of one call.
_MAX_BUFFERS = 1024


class Tail(NamedTuple):
    """End of the committed values."""

    first: int  # offset in the name of the newest file
    place: int  # its bytes


class ValueFiles:
    """Value files of one partition, for one writing and one reading thread at a time.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     files = ValueFiles(Path(folder) / "00000.db")
    ...     places, tail = files.write(None, 12, [b"a", b"bc"])
    ...     values = list(map(files.reader().read, places))
    ...     files.close()
    >>> places, tail, values
    (['12:0:1', '12:1:2'], Tail(first=12, place=3), [b'a', b'bc'])
    """

    def __init__(self, database: Path) -> None:
        self._folder, self._stem = database.parent, database.stem
        self._written: tuple[int, int] | None = None  # first offset and descriptor of the file open for writes, and for reads
        self._read: tuple[int, int] | None = None

    def write(self, tail: Tail | None, offset: int, values: Sequence[bytes]) -> tuple[list[str], Tail]:
        """Write the values of the records from `offset` on behind `tail`; return their places and the new tail, once they are on disk.

        Raises:
            FileNotFoundError: the file of `tail` is gone.
            EOFError: it is too short: what lies between its end and `tail` would read as zeros.
        """
        is_new = tail is None or tail.place >= FILE_BYTES
        if tail is None or is_new:
            tail = Tail(offset, 0)
        descriptor = self._writable(tail.first, create=is_new)
        if is_new:
            sync_folder(self._folder)
        elif (size := os.fstat(descriptor).st_size) < tail.place:
            raise EOFError(f"value file {tail.first} must have {tail.place} bytes, got {size}")
        place = tail.place
        places = []
        for start in range(0, len(values), _MAX_BUFFERS):
            _write_all(descriptor, values[start : start + _MAX_BUFFERS], place)
            for value in values[start : start + _MAX_BUFFERS]:
                places.append(f"{tail.first}:{place}:{len(value)}")
                place += len(value)
        os.fdatasync(descriptor)
        return places, Tail(tail.first, place)

    def reader(self) -> ValueReader:
        """Return a reader of the values that are committed now."""
        return ValueReader(self.readable)

    def trim(self, start: int) -> None:
        """Delete the files of which every record is before the offset `start`."""
        firsts = sorted(int(path.suffixes[0][1:]) for path in self._folder.glob(f"{self._stem}.*.values"))
        for first, following in pairwise(firsts):
            if following <= start:
                self._path(first).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        for opened in (self._written, self._read):
            if opened is not None:
                os.close(opened[1])
        self._written = self._read = None

    def readable(self, first: int) -> int:
        """Return a descriptor of the file `first` for reads, until the next call."""
        self._read = _opened(self._read, first, lambda: os.open(self._path(first), os.O_RDONLY))
        return self._read[1]

    def _path(self, first: int) -> Path:
        return self._folder / f"{self._stem}.{first:020d}.values"

    def _writable(self, first: int, *, create: bool) -> int:
        flags = os.O_WRONLY | (os.O_CREAT if create else 0)
        self._written = _opened(self._written, first, lambda: os.open(self._path(first), flags, 0o666))
        return self._written[1]


class ValueReader:
    """Reads values, those behind a small one together with it: all of them must have been committed before the first call."""

    def __init__(self, readable: Callable[[int], int]) -> None:
        self._readable = readable
        self._first, self._place, self._data = -1, 0, b""  # what was read last: its file, its place there, its bytes

    def read(self, place: str) -> bytes:
        """Return the value at a place given by `ValueFiles.write`.

        Raises:
            FileNotFoundError: its file is gone.
            EOFError: its file is too short.
        """
        first, begin, size = map(int, place.split(":"))
        if first != self._first or not self._place <= begin <= self._place + len(self._data) - size:
            self._first, self._place = first, begin
            self._data = _read_at_least(self._readable(first), size, begin)
            if len(self._data) < size:
                raise EOFError(f"value file {first} must have {begin + size} bytes, got {begin + len(self._data)}")
        start = begin - self._place
        return self._data[start : start + size]


def _opened(before: tuple[int, int] | None, first: int, open_file: Callable[[], int]) -> tuple[int, int]:
    """Return the file `first` with its descriptor: the one open before, or a new one in its place."""
    if before is not None and before[0] == first:
        return before
    now = first, open_file()
    if before is not None:
        os.close(before[1])
    return now


def _read_at_least(descriptor: int, size: int, place: int) -> bytes:
    """Return `size` bytes or more from `place` on, fewer at the end of the file; one call of `pread` brings at most 2 GiB less 4 KiB."""
    data = os.pread(descriptor, max(size, _AHEAD_BYTES), place)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), place + len(data))):
        data += more
    return data


def _write_all(descriptor: int, values: Sequence[bytes], place: int) -> None:
    """Write `values` at `place`, in as many calls as it takes."""
    left = [memoryview(value) for value in values if value]
    while left:
        written = os.pwritev(descriptor, left, place)
        place += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
