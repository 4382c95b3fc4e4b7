"""Archived records of impressions and actions, as the log had them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from monolith_py.errors import ArchiveError
from monolith_py.io.archive.columns import HOUR_MS
from monolith_py.io.archive.folder import META
from monolith_py.io.log.log import Record

_PLACES = ["log_partition", "log_offset", "log_time_ms", "record"]
_BATCH_ROWS = 2000


class ArchivedFile(NamedTuple):
    """One file of an archive: records [start, stop) of one partition, those of one event hour."""

    path: Path
    partition: int
    start: int
    stop: int

    @property
    def hour(self) -> int:
        """Return the event hour since the epoch."""
        return hour_of(self.path.parent)


def archived_files(folder: Path, topic: str, first_ms: int, stop_ms: int) -> list[ArchivedFile]:
    """Return the files of `topic` with records whose event time is in [first_ms, stop_ms), by hour, partition and offset.

    Raises:
        ArchiveError: the folder is no archive, or a file has no valid name.
    """
    if not (folder / META).is_dir():
        raise ArchiveError(f"{folder}: must be an archive with a folder {META}, got none")
    root = folder / f"topic={topic}"
    first, last = max(first_ms, 0) // HOUR_MS, max(stop_ms - 1, 0) // HOUR_MS
    hours = sorted((hour, path) for path in root.glob("date=*/hour=*") if first <= (hour := hour_of(path)) <= last)
    return [file_of(path) for _, hour in hours for path in sorted(hour.glob("*.parquet"))]


def read_records(file: ArchivedFile, topic: str) -> Iterator[Record]:
    """Yield the records of a file of impressions or actions, in the order of the log; `topic` is their topic's name.

    Raises:
        ArchiveError: the file cannot be read, or has no records.
    """
    try:
        with pq.ParquetFile(file.path) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=_PLACES):
                for partition, offset, time_ms, value in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Record(topic, partition, offset, time_ms, value)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ArchiveError(f"{file.path}: {error}") from error


def hour_of(folder: Path) -> int:
    """Return the hour since the epoch of a folder date=.../hour=...

    Raises:
        ArchiveError: it is no such folder.
    """
    try:
        date, hour = (name.partition("=")[2] for name in folder.parts[-2:])
        return int(datetime.fromisoformat(f"{date}T{int(hour):02d}:00+00:00").timestamp()) * 1000 // HOUR_MS
    except ValueError:
        raise ArchiveError(f"{folder}: a folder must be named date=YYYY-MM-DD/hour=H, got another name") from None


def file_of(path: Path) -> ArchivedFile:
    """Return a file of an hour by its name.

    Raises:
        ArchiveError: it has another name.
    """
    try:
        partition, start, stop = (int(part) for part in path.stem.split("-"))
    except ValueError:
        raise ArchiveError(f"{path}: a file must be named PARTITION-START-STOP.parquet, got {path.name!r}") from None
    return ArchivedFile(path, partition, start, stop)
