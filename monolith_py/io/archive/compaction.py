"""Compaction of an archive: the files of an old hour become one file a partition.

1. Write the new files of an hour into `_archive/compact.tmp`, flushed to the disk.
2. Exchange this folder with that of the hour, in one step of the file system.
3. Move the old files, which are in `_archive/compact.tmp` now, to `_archive/compacted`.

The next run deletes both folders of `_archive`, whatever is in them, also after a death of this one. A reader that lists an hour sees its
old files or its new ones, each record once; one that listed it before step 2 and opens a file after it gets an error, no wrong rows.
The old files stay for a while, as a listing during their deletion would have some of them.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monolith_py.errors import ArchiveError
from monolith_py.io.archive.columns import HOUR_MS, TOPICS
from monolith_py.io.archive.exchange import exchange
from monolith_py.io.archive.folder import COMPRESSION, META, sync
from monolith_py.io.archive.reader import ArchivedFile, file_of, hour_of

_logger = logging.getLogger(__name__)

_STAGED, _OLD = "compact.tmp", "compacted"
# Columns in memory, of about one row group.
_PENDING_BYTES = 64 << 20


def compact(folder: Path, now_ms: int, min_age_s: float) -> tuple[int, int]:
    """Compact the hours that ended at least `min_age_s` ago, and return the numbers of files before and after in those that changed.

    The caller has the lock of the archive, and no commit is under way. An hour with a damaged file, or with columns of different types, is
    logged and stays as it is.

    Raises:
        ArchiveError: a file cannot be read or written, or the file system cannot exchange folders.
    """
    before, after = 0, 0
    try:
        clear(folder)
        for topic in TOPICS:
            for hour in sorted((folder / f"topic={topic}").glob("date=*/hour=*")):
                if (hour_of(hour) + 1) * HOUR_MS + min_age_s * 1000 > now_ms:
                    continue
                parts = _by_partition(hour)
                if any(len(part) > 1 for part in parts) and _try_hour(folder / META / _STAGED, hour, parts):
                    before, after = before + sum(map(len, parts)), after + len(parts)
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{folder}: not compacted: {error}") from error
    return before, after


def clear(folder: Path) -> None:
    """Delete the old files of the last compaction, and what an interrupted one left."""
    for name in (_STAGED, _OLD):
        if (left := folder / META / name).exists():
            shutil.rmtree(left)


def _by_partition(hour: Path) -> list[list[ArchivedFile]]:
    """Return the files of an hour by partition, in the order of the log; none if the folder has something else."""
    if others := [path.name for path in hour.iterdir() if path.suffix != ".parquet"]:
        _logger.warning("%s is not compacted, it has other files: %s", hour, ", ".join(sorted(others)))
        return []
    parts: dict[int, list[ArchivedFile]] = {}
    for path in sorted(hour.iterdir()):
        file = file_of(path)
        parts.setdefault(file.partition, []).append(file)
    return list(parts.values())


def _try_hour(staged: Path, hour: Path, parts: Sequence[Sequence[ArchivedFile]]) -> bool:
    """Compact an hour; return False if its files do not form one."""
    try:
        _compact_hour(staged, hour, parts)
    except pa.ArrowException as error:  # of `_merge`, before the exchange
        _logger.error("%s is not compacted: %s", hour, error)
        shutil.rmtree(staged)
        return False
    return True


def _compact_hour(staged: Path, hour: Path, parts: Sequence[Sequence[ArchivedFile]]) -> None:
    staged.mkdir()
    for files in parts:  # 1
        first, last = files[0], files[-1]
        path = staged / f"{first.partition:05d}-{first.start:012d}-{last.stop:012d}.parquet"
        if len(files) == 1:
            shutil.copyfile(first.path, path)
        else:
            _merge(files, path)
        sync(path)
    sync(staged)
    exchange(staged, hour)  # 2
    sync(hour.parent)
    sync(staged.parent)
    old = staged.with_name(_OLD)
    old.mkdir(exist_ok=True)
    staged.rename(old / "-".join(hour.parts[-3:]))  # 3


def _merge(files: Sequence[ArchivedFile], path: Path) -> None:
    """Write the rows of `files` into one file; a column that some of them lack is null there."""
    schema = pa.unify_schemas([pq.read_schema(file.path) for file in files])
    num_rows, pending = 0, list[Any]()
    with pq.ParquetWriter(path, schema, compression=COMPRESSION) as writer:
        for file in files:
            # Not `read_table`, which adds the columns of the folder's name.
            with pq.ParquetFile(file.path) as parquet:
                pending.append(parquet.read())
            num_rows += len(pending[-1])
            if sum(table.nbytes for table in pending) >= _PENDING_BYTES or file is files[-1]:
                writer.write_table(pa.concat_tables([schema.empty_table(), *pending], promote_options="default"))
                pending.clear()
    written = pq.read_metadata(path).num_rows
    if written != num_rows:
        raise ArchiveError(f"{os.fspath(path)}: must have {num_rows} rows, got {written}")
