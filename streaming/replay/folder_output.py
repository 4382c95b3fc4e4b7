"""Output of a replay into Parquet files by event hour. A worker may run twice: files are replaced, and those left over are deleted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from monolith_py.errors import ArchiveError, ConfigError
from monolith_py.io import Record
from monolith_py.io.archive import HOUR_MS, hour_folder, hours_of, write_hours
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES
from monolith_streaming.replay.output import PartitionOutput, Step
from monolith_streaming.replay.source import Count, Shard

# Bytes of records in the files of one commit, and most records of a shard.
_FILE_BYTES, _SHARD_RECORDS = 16 << 20, 1 << 32


@dataclass(frozen=True)
class FolderOutput:
    """Folder of Parquet files in the form of an archive; its workers must reach it."""

    folder: Path
    name: str  # of the replay
    rules: str  # text that two replays share if they have the same records

    def begin(self) -> None:
        """Note the replay in the folder.

        Raises:
            ConfigError: a replay of this range by other rules wrote there, or the folder is the archive of a log.
            ArchiveError: the folder cannot be written.
        """
        marker = self._marker()
        if marker.with_name("job.json").exists():
            raise ConfigError(f"replay output {str(self.folder)!r} must be no archive of a log, got one: choose another")
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            found = json.loads(marker.read_text())["rules"] if marker.exists() else self.rules
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"{marker}: {error}") from error
        if found != self.rules:
            raise ConfigError(
                f"replay output {str(self.folder)!r} must have no replay of {self.name} by other rules, got one: choose another"
            )
        self._note(complete=False)

    def open(self, partition: int, count: Count) -> PartitionOutput:
        """Return the output of a partition."""
        return _FolderPartition(self, partition, count)

    def end(self) -> None:
        """Note that all files are there."""
        self._note(complete=True)

    def _marker(self) -> Path:
        return self.folder / "_archive" / f"replay-{self.name}.json"

    def _note(self, *, complete: bool) -> None:
        document = {"replay": self.name, "rules": self.rules, "complete": complete}
        staged = self._marker().with_suffix(".tmp")
        try:
            staged.write_text(json.dumps(document, indent=1))
            staged.replace(self._marker())
        except OSError as error:
            raise ArchiveError(f"{self._marker()}: {error}") from error


class _FolderPartition:
    max_record_bytes = MAX_RECORD_BYTES
    first_shard = 0

    def __init__(self, output: FolderOutput, partition: int, count: Count) -> None:
        self._output, self._partition, self._count = output, partition, count
        self._waiting: list[Record] = []
        self._written: set[Path] = set()  # of the shard
        self._num_records = self._num_bytes = self._num_files = 0

    def write(self, shard: int, step: Step) -> None:
        """Keep the records, and write files once there are some MiB."""
        for value in step.values:
            offset = shard * _SHARD_RECORDS + self._num_records
            self._waiting.append(Record("examples", self._partition, offset, step.newest_ms, value))
            self._num_records += 1
            self._num_bytes += len(value)
        if self._num_bytes >= _FILE_BYTES:
            self._flush(shard)

    def end_shard(self, shard: Shard) -> None:
        """Write what is left of the shard, and delete what an earlier run has written and this one has not: it read fewer records."""
        self._flush(shard.number)
        for hour in range(shard.from_ms // HOUR_MS, (shard.to_ms - 1) // HOUR_MS + 1):
            for file in (self._output.folder / "topic=examples" / hour_folder(hour)).glob(f"{self._name(shard.number)}-*.parquet"):
                if file not in self._written:
                    file.unlink(missing_ok=True)
        self._written = set()
        self._num_records = self._num_files = 0

    def end(self) -> None:
        """Do nothing: all files are there."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _flush(self, shard: int) -> None:
        """Write one file for each event hour."""
        if self._waiting:
            name = f"{self._name(shard)}-{self._num_files:06d}"
            self._written |= set(write_hours(self._output.folder, name, hours_of("examples", self._waiting)))
            self._count("records_written", len(self._waiting))
            self._num_files += 1
        self._waiting, self._num_bytes = [], 0

    def _name(self, shard: int) -> str:
        """Return how the names of the files of a shard begin."""
        return f"replay-{self._output.name}-{self._partition:05d}-{shard:06d}"
