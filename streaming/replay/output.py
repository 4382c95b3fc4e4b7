"""Output of a replay, written by its workers: records of one partition into a topic, or examples into Parquet files by event hour.

A worker may run twice. Each record in a topic has the replay's name in its metadata, so only missing ones are appended; a file is
replaced by its like.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.errors import ArchiveError, ConfigError, WireError
from monolith_py.io import Log, Record, open_log
from monolith_py.io.archive import hours_of, write_hours
from monolith_py.io.codec import encode_examples, examples_metadata
from monolith_streaming.replay.slots import Slot, decode_slot_file, encode_slot_file
from monolith_streaming.replay.source import Count

_logger = logging.getLogger(__name__)

METADATA_KEY = "replay"
# Key of the record that ends a replay: it has no examples.
END_KEY = "replay_end"
# Counters of a partition whose output has other records.
FOREIGN = "foreign_records_"
# Place of a record in the order of a replay: its slot of time, then its number there.
_RECORDS_PER_SLOT = 1 << 20
_READ_RECORDS = 256

# Bytes of records in one element of the pipeline: runners limit an element to 2 GB.
_PART_BYTES = 16 << 20

# Number of a slot of time, number of the first record in it, records as the file of a slot; None: no records.
SlotPart = tuple[int, int, bytes] | None


@dataclass(frozen=True)
class TopicOutput:
    """Topic `topic` of the job's log, with the partitions of the impressions."""

    job: JobConfig
    topic: str
    name: str  # of the replay

    def end(self) -> None:
        """Append a record without examples to partition 0, unless it is the last one there: all partitions are written."""
        none, schema = np.zeros(0, np.int64), Schema.of(self.job)
        labels = {task: none.astype(np.float32) for task in schema.tasks}
        empty = ExampleBatch((), none, none, none.astype(np.uint8), none.astype(np.float32), labels, FeatureColumns(0))
        value = encode_examples(empty, {END_KEY: self.name})
        with closing(open_log(self.job.log)) as log:
            last = last_record(log, self.topic, 0)
            if last is None or last.value != value:
                log.append(self.topic, [value], time_ms=last.time_ms if last else 1)

    def write(self, partition: int, slots: Iterable[SlotPart], count: Count) -> None:
        """Append the records of all slots of a partition that it lacks, in the order of time; the slots may come in any order."""
        with tempfile.TemporaryDirectory(prefix="replay-") as folder, closing(open_log(self.job.log)) as log:
            for slot in slots:
                if slot is not None:
                    (Path(folder) / _name(slot)).write_bytes(slot[2])
            files = sorted(Path(folder).iterdir())
            present = self._records_of(log, partition)
            for file in files:
                if not self._append(log, partition, decode_slot_file(file.read_bytes()), present, count):
                    return
            if next(present, None) is not None:
                count(f"{FOREIGN}{partition}", 1)
        _logger.info("%r[%d]: all records are in the topic, in %d parts", self.topic, partition, len(files))

    def _append(self, log: Log, partition: int, slot: Slot, present: Iterator[bytes], count: Count) -> bool:
        """Append the records of a slot that are not next in `present`; return whether those that are there are its own."""
        values = []
        for value in slot.values:
            earlier = next(present, None)
            if earlier is None:
                values.append(value)
            elif earlier == value:
                count("records_present", 1)
            else:
                count(f"{FOREIGN}{partition}", 1)
                return False
        if values:
            log.append(self.topic, values, time_ms=slot.time_ms, partition=partition)
            count("records_written", len(values))
        return True

    def _records_of(self, log: Log, partition: int) -> Iterator[bytes]:
        """Yield the records of the partition that a replay of this name wrote, in order."""
        offset, end = log.start_offset(self.topic, partition), log.end_offset(self.topic, partition)
        while offset < end:
            records = log.read(self.topic, partition, offset, _READ_RECORDS)
            if not records:
                return
            for record in records:
                if record.offset < end and replay_name(record.value) == self.name:
                    yield record.value
            offset = records[-1].offset + 1


@dataclass(frozen=True)
class FolderOutput:
    """Folder of Parquet files in the form of an archive; its workers must reach it."""

    folder: Path
    name: str  # of the replay
    rules: str  # joining rules of the replay, as a text

    def begin(self) -> None:
        """Note the replay in the folder.

        Raises:
            ConfigError: a replay of this range by other rules wrote there.
            ArchiveError: the folder cannot be written.
        """
        marker = self._marker()
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

    def end(self) -> None:
        """Note that all files are there."""
        self._note(complete=True)

    def write(self, partition: int, slots: Iterable[SlotPart], count: Count) -> None:
        """Write the examples of each slot, one file for each event hour."""
        for slot in slots:
            if slot is None:
                continue
            part = decode_slot_file(slot[2])
            first = slot[0] * _RECORDS_PER_SLOT + slot[1]
            records = [Record("examples", partition, first + index, part.time_ms, value) for index, value in enumerate(part.values)]
            write_hours(self.folder, f"replay-{self.name}-{partition:05d}-{_name(slot)}", hours_of("examples", records))
            count("records_written", len(records))

    def _marker(self) -> Path:
        return self.folder / "_archive" / f"replay-{self.name}.json"

    def _note(self, *, complete: bool) -> None:
        document = {"replay": self.name, "rules": self.rules, "complete": complete}
        try:
            self._marker().write_text(json.dumps(document, indent=1))
        except OSError as error:
            raise ArchiveError(f"{self._marker()}: {error}") from error


def last_record(log: Log, topic: str, partition: int) -> Record | None:
    """Return the last record of a partition, None if it has none."""
    start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    records = log.read(topic, partition, end - 1, 1) if end > start else []
    return records[0] if records else None


def ends_replay(value: bytes) -> bool:
    """Return whether a record is the one that ends a replay."""
    try:
        return END_KEY in examples_metadata(value)
    except WireError:
        return False


def replay_name(value: bytes) -> str | None:
    """Return the name of the replay that wrote a record of examples, None for a record of the joiner or a bad one."""
    try:
        return examples_metadata(value).get(METADATA_KEY)
    except WireError:
        return None


def encoded(number: int, newest_ms: int, values: Sequence[bytes]) -> Iterator[SlotPart]:
    """Yield the records of one slot of time, in parts of some MiB."""
    first = num_bytes = 0
    for index, value in enumerate(values):
        if index > first and num_bytes + len(value) > _PART_BYTES:
            yield number, first, encode_slot_file(Slot(newest_ms, tuple(values[first:index])))
            first, num_bytes = index, 0
        num_bytes += len(value)
    yield number, first, encode_slot_file(Slot(newest_ms, tuple(values[first:])))


def _name(slot: tuple[int, int, bytes]) -> str:
    """Return the file name of a part: names sort in the order of time."""
    return f"{slot[0]:012d}-{slot[1]:07d}"
