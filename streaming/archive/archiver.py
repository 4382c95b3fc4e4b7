"""Copies partitions of the log into an archive: reads, gathers records, commits those of one partition at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.errors import ArchiveError, OffsetTrimmed, RecordsDamaged
from monolith_py.io import Log, Record
from monolith_py.io.archive import REFUSED, TOPICS, ArchiveFolder, compact, hours_of
from monolith_py.io.log.topics import Topics
from monolith_py.observe import metrics

_logger = logging.getLogger(__name__)

_READ_RECORDS = 1000
# Bytes of records in memory: those of one partition become a file, those of all together bound the process.
_FILE_BYTES = 64 << 20
_PENDING_BYTES = 256 << 20
# Wait of a following archiver that has read everything.
_POLL_S = 0.5
# Hours get few late records after this time; those that come make another file, until the next compaction.
_COMPACT_AGE_S = 7200.0
_COMPACT_INTERVAL_S = 3600.0


@dataclass
class _Cursor:
    kind: str  # one of TOPICS
    topic: str
    partition: int
    start: int  # of the records that are not committed
    offset: int  # next to read
    records: list[Record] = field(default_factory=list)
    num_bytes: int = 0


class Archiver:
    """Archives impressions, actions and examples of a job, every record once.

    Records that were deleted or damaged before they were read are counted and passed over; those that no decoder takes go to the folder
    `topic=refused`.
    """

    def __init__(
        self, job: JobConfig, log: Log, folder: ArchiveFolder, clock: Clock, interval_s: float = 60.0, *, compacts: bool = False
    ) -> None:
        """Continue the archive in `folder`, which this process has locked; a partition commits at least every `interval_s`.

        `compacts`: make one file a partition of hours that ended two hours ago.

        Raises:
            ArchiveError: the folder is the archive of another job, or is damaged.
            LogError: a topic is missing.
        """
        names = Topics.of(job.log)
        topics = {kind: getattr(names, kind) for kind in TOPICS}
        self._log, self._folder, self._clock, self._interval_s, self._topics = log, folder, clock, interval_s, topics
        folder.open(job.name, topics)
        self._cursors: list[_Cursor] = []
        self._look_for_partitions()
        self._commit_due_s = clock.monotonic_s() + interval_s
        self._compacts, self._compact_due_s = compacts, clock.monotonic_s()

    def _look_for_partitions(self) -> None:
        """Begin partitions that are not archived yet: all at the start, later those that were added."""
        known = {(one.kind, one.partition) for one in self._cursors}
        self._cursors += [
            self._cursor(kind, topic, partition)
            for kind, topic in self._topics.items()
            for partition in range(self._log.num_partitions(topic))
            if (kind, partition) not in known
        ]

    def _cursor(self, kind: str, topic: str, partition: int) -> _Cursor:
        offset = self._folder.next_offset(kind, partition)
        if offset is None:
            offset = self._log.start_offset(topic, partition)
        return _Cursor(kind, topic, partition, offset, offset)

    def ends(self) -> dict[tuple[str, int], int]:
        """Return the present end offset of each partition, by (topic, partition)."""
        return {(one.topic, one.partition): self._log.end_offset(one.topic, one.partition) for one in self._cursors}

    def archive(self, ends: Mapping[tuple[str, int], int], should_stop: Callable[[], bool] = lambda: False) -> int:
        """Archive the records before `ends` and commit them; return the number of records."""
        total = 0
        for cursor in self._cursors:
            end = ends[cursor.topic, cursor.partition]
            while not should_stop() and (num := self._read(cursor, end)):
                total += num
        self.commit()
        self._compact()
        return total

    def follow(self, should_stop: Callable[[], bool]) -> None:
        """Archive records as they come, until `should_stop`; then commit."""
        while not should_stop():
            ends = self.ends()
            num = sum(self._read(cursor, ends[cursor.topic, cursor.partition]) for cursor in self._cursors)
            if self._clock.monotonic_s() >= self._commit_due_s:
                self.commit()
                self._compact_if_possible()
            if not num:
                self._clock.sleep(_POLL_S)
        self.commit()

    def commit(self) -> None:
        """Commit everything that was read; look for new partitions; set the gauges of the lag."""
        for cursor in self._cursors:
            self._commit(cursor)
        self._look_for_partitions()
        self._commit_due_s = self._clock.monotonic_s() + self._interval_s
        for (topic, partition), end in self.ends().items():
            offset = next(one.offset for one in self._cursors if (one.topic, one.partition) == (topic, partition))
            metrics.ARCHIVE_LAG_RECORDS.labels(topic=topic, partition=str(partition)).set(end - offset)

    def _compact(self) -> None:
        """Compact old hours, at most once an hour."""
        now_s = self._clock.monotonic_s()
        if not self._compacts or now_s < self._compact_due_s:
            return
        self._compact_due_s = now_s + _COMPACT_INTERVAL_S
        before, after = compact(self._folder.path, self._clock.now_ms(), _COMPACT_AGE_S)
        _logger.info("compacted %d files of old hours into %d", before, after)

    def _compact_if_possible(self) -> None:
        """Compact old hours; a failure is logged, as the archive is as good as before."""
        try:
            self._compact()
        except ArchiveError as error:
            _logger.error("%s", error)

    def _read(self, cursor: _Cursor, end: int) -> int:
        """Read records before `end`, commit if there are enough; return their number, with those that are lost."""
        if cursor.offset >= end:
            return 0
        before = cursor.offset
        try:
            records = self._log.read(cursor.topic, cursor.partition, cursor.offset, min(_READ_RECORDS, end - cursor.offset))
        except (OffsetTrimmed, RecordsDamaged) as error:
            cursor.offset = error.start if isinstance(error, OffsetTrimmed) else error.next_offset
            _logger.error("records are missing in the archive, reading on at offset %d: %s", cursor.offset, error)
            metrics.RECORDS_LOST.labels(topic=cursor.topic).inc(cursor.offset - before)
            return cursor.offset - before
        if not records:  # the last offsets have no record (Kafka's control records)
            return 0
        cursor.records += records
        cursor.num_bytes += sum(len(record.value) for record in records)
        cursor.offset = records[-1].offset + 1
        if cursor.num_bytes >= _FILE_BYTES:
            self._commit(cursor)
        elif sum(one.num_bytes for one in self._cursors) >= _PENDING_BYTES:
            self._commit(max(self._cursors, key=lambda one: one.num_bytes))
        return len(records)

    def _commit(self, cursor: _Cursor) -> None:
        if cursor.offset == cursor.start:
            return
        hours = hours_of(cursor.kind, cursor.records)
        files = self._folder.commit(cursor.kind, cursor.partition, cursor.start, cursor.offset, hours)
        refused = sum(len(table) for (kind, _), table in hours.items() if kind == REFUSED)
        metrics.RECORDS_ARCHIVED.labels(topic=cursor.topic).inc(len(cursor.records))
        place = (cursor.topic, cursor.partition, cursor.start, cursor.offset)
        _logger.info("%r[%d]: records %d to %d archived in %d files, %d refused", *place, len(files), refused)
        cursor.start, cursor.records, cursor.num_bytes = cursor.offset, [], 0
