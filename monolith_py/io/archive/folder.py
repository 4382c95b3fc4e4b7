"""Folder of an archive: files by topic and event hour, and commits that are whole after any crash.

    FOLDER/topic=impressions/date=2026-11-29/hour=13/00003-000000001000-000000002000.parquet     partition 3, records [1000, 2000)
    FOLDER/_archive/job.json                     job and topics of the archive
    FOLDER/_archive/impressions-00003.json       next offset of partition 3, and the files of a commit that is under way
    FOLDER/_archive/*.tmp                        files that are being written, a compaction (compaction.py)
    FOLDER/_archive/compacted/                   files that the last compaction replaced

A commit of records [start, stop) of one partition has these steps:

1. Write its files in `_archive`, flushed to the disk.
2. Write the partition's state with `next` = stop and the files to be renamed. From here on the commit happens.
3. Rename the files into their hours.
4. Write the state without files.

A start repeats the renames of step 3 that are missing, and deletes files of a commit that did not reach step 2. So a record is in
exactly one file whenever the process dies.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monolith_py.errors import ArchiveError
from monolith_py.io.archive.columns import HOUR_MS
from monolith_py.io.role_lock import role_lock

META = "_archive"
_VERSION = 1
COMPRESSION = "zstd"


class ArchiveFolder:
    """One archive, for one writing process at a time (`lock`); any number of processes may read its files meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path, self._meta = path, path / META

    @property
    def path(self) -> Path:
        """Return the folder."""
        return self._path

    def lock(self) -> AbstractContextManager[None]:
        """Return the lock of the writing process."""
        return role_lock(self._meta / "lock", "archiver", ArchiveError)

    def open(self, job: str, topics: Mapping[str, str]) -> None:
        """Make the folder an archive of `job`, whose topics are called `topics`, or check that it is.

        Raises:
            ArchiveError: it is the archive of another job or of other topics, or cannot be written.
        """
        expected = {"version": _VERSION, "job": job, "topics": dict(topics)}
        found = self._read("job.json")
        if found is None:
            self._write("job.json", expected)
        elif found != expected:
            raise ArchiveError(f"{self._path}: an archive must be of one job and its topics, {found}, got {expected}")

    def next_offset(self, topic: str, partition: int) -> int | None:
        """Return the offset after the last archived record of a partition, None if none is; finish or undo a commit that was interrupted.

        Raises:
            ArchiveError: the state of the partition is damaged, or a file of the commit is gone.
        """
        name = _state_name(topic, partition)
        state = self._read(name)
        if state is None:
            state = {"next": None, "files": {}}
        try:
            offset, files = state["next"], dict(state["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveError(f"{self._meta / name}: {type(error).__name__}: {error}") from None
        if files:
            self._finish(topic, partition, offset, files)
        for left in self._meta.glob(f"{topic}-{partition:05d}-*.tmp"):
            left.unlink()
        return None if offset is None else int(offset)

    def commit(self, topic: str, partition: int, start: int, stop: int, hours: Mapping[tuple[str, int], pa.Table]) -> list[Path]:
        """Add the rows of records [start, stop) of one partition, all or none; return the files, relative to the folder.

        `hours`: tables by (folder's topic, hours since the epoch), as `hours_of` gives them.

        Raises:
            ArchiveError: a file cannot be written; the commit may be repeated after `next_offset`.
        """
        files: dict[str, str] = {}
        for (kind, hour), table in hours.items():
            name = f"{partition:05d}-{start:012d}-{stop:012d}.parquet"
            if kind != topic:
                name = f"{topic}-{name}"
            staged = f"{topic}-{partition:05d}-{start:012d}-{kind}-{hour}.tmp"
            self._write_table(staged, table)
            files[staged] = f"topic={kind}/{hour_folder(hour)}/{name}"
        self._write(_state_name(topic, partition), {"next": stop, "files": files})
        self._finish(topic, partition, stop, files)
        return [Path(file) for file in files.values()]

    def _finish(self, topic: str, partition: int, offset: int, files: Mapping[str, str]) -> None:
        for staged, file in files.items():
            self._publish(staged, file)
        self._write(_state_name(topic, partition), {"next": offset, "files": {}})

    def _publish(self, staged: str, file: str) -> None:
        """Rename one file into its hour, unless an earlier attempt has."""
        source, target = self._meta / staged, self._path / file
        try:
            self._make_folder(target.parent)
            if source.exists():
                os.replace(source, target)
                sync(target.parent)
            elif not target.exists():
                raise ArchiveError(f"{target}: a file of a commit must be there, got neither it nor {source}")
        except OSError as error:
            raise ArchiveError(f"{target}: {error}") from error

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, each on the disk before a file of it counts."""
        if not folder.is_dir():
            if folder != self._path:
                self._make_folder(folder.parent)
            folder.mkdir(parents=folder == self._path, exist_ok=True)
            sync(folder.parent)

    def _write_table(self, name: str, table: pa.Table) -> None:
        _write_parquet(table, self._meta / name)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._meta / name
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ArchiveError(f"{path}: {error}") from error
        if not isinstance(found, dict):
            raise ArchiveError(f"{path}: must hold a JSON object, got {type(found).__name__}")
        return found

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        """Replace a file of the archive's state; it has the old or the new content after a crash."""
        path = self._meta / name
        staged = path.with_suffix(".new")
        try:
            self._meta.mkdir(parents=True, exist_ok=True)
            staged.write_text(json.dumps(document, indent=1))
            sync(staged)
            os.replace(staged, path)
            sync(self._meta)
        except OSError as error:
            raise ArchiveError(f"{path}: {error}") from error


def write_hours(folder: Path, name: str, hours: Mapping[tuple[str, int], pa.Table]) -> list[Path]:
    """Write one file `name` for each of `hours` (`hours_of`), each whole or not at all, and return them; those that are there are replaced.

    Raises:
        ArchiveError: a file cannot be written.
    """
    files = []
    for (topic, hour), table in hours.items():
        file = folder / f"topic={topic}" / hour_folder(hour) / f"{name}.parquet"
        staged = folder / META / f"{name}-{hour}-{secrets.token_hex(4)}.tmp"
        _write_parquet(table, staged)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, file)
        except OSError as error:
            raise ArchiveError(f"{file}: {error}") from error
        files.append(file)
    return files


def hour_folder(hour: int) -> str:
    """Return the folder of an hour since the epoch. DuckDB takes hours with a leading zero for texts, pyarrow for numbers.

    >>> hour_folder(483_003)
    'date=2025-02-06/hour=3'
    """
    time = datetime.fromtimestamp(hour * HOUR_MS / 1000, UTC)
    return f"date={time:%Y-%m-%d}/hour={time.hour}"


def _state_name(topic: str, partition: int) -> str:
    return f"{topic}-{partition:05d}.json"


def _write_parquet(table: pa.Table, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression=COMPRESSION)
        sync(path)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{path}: {error}") from error


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
