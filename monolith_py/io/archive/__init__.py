"""The archive: topics of a job as Parquet files by event hour, readable by DuckDB, Spark and pyarrow as they are."""

from monolith_py.io.archive.columns import HOUR_MS, REFUSED, TOPICS, hours_of
from monolith_py.io.archive.compaction import compact
from monolith_py.io.archive.folder import ArchiveFolder, hour_folder, write_hours
from monolith_py.io.archive.reader import ArchivedFile, archived_files, read_records

__all__ = [
    "HOUR_MS",
    "REFUSED",
    "TOPICS",
    "ArchiveFolder",
    "ArchivedFile",
    "archived_files",
    "compact",
    "hour_folder",
    "hours_of",
    "read_records",
    "write_hours",
]
