"""Input of a replay: a range of the log's topics by time or by offsets, or of an archive, cut into shards that are joined alone.

A shard has the impressions of its times and is joined with the records around it that can matter to them. The records of one topic come
in blocks with fixed bounds of offsets: so the joiner sees the same blocks, whether log or archive has them.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from monolith_py.data.events import Action, Impression
from monolith_py.errors import ConfigError, RecordsDamaged
from monolith_py.io import Log, Record
from monolith_py.io.archive import HOUR_MS, ArchivedFile, archived_files, read_records
from monolith_py.io.codec import event_time_ms
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic

# Records of a block, and those looked at behind the end of a range.
BLOCK_RECORDS, _LOOK_BEHIND = 1024, 2000
# Length of a shard: at least this, and this many times what is read around it.
_SHARD_MS, _SHARD_MARGINS = 6 * 3600 * 1000, 10
_MAX_SHARDS = 1000
# Longest list of offsets in a name of a topic, which has 249 characters at most.
_NAME_CHARS = 100
_EVENTS: dict[InputTopic, type[Action | Impression]] = {InputTopic.IMPRESSIONS: Impression, InputTopic.ACTIONS: Action}
NO_END = 1 << 62
Count = Callable[[str, int], None]
Offsets = Mapping[int, tuple[int, int]]  # partition -> [start, stop)


@dataclass(frozen=True)
class Input:
    """Place of the records: the topics of a log, or a folder with an archive of them."""

    topics: Mapping[InputTopic, str]
    archive: Path | None = None
    offsets: Offsets | None = None  # of the impressions that are read


@dataclass(frozen=True)
class Range:
    """Impressions of [start_ms, end_ms) and all their actions; with `offsets` only the impressions there."""

    start_ms: int
    end_ms: int
    offsets: Offsets | None = None

    @property
    def name(self) -> str:
        """Return the name of the range, for topics and metadata."""
        if self.offsets is None:
            return f"{self.start_ms}-{self.end_ms}"
        text = "-".join(f"{partition}.{start}.{stop}" for partition, (start, stop) in sorted(self.offsets.items()))
        return f"offsets-{text if len(text) <= _NAME_CHARS else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def parse_range_name(name: str) -> tuple[int, int] | None:
    """Return [start_ms, end_ms) of the replay of a time range, None for another one.

    >>> parse_range_name("1000-2000"), parse_range_name("offsets-0.0.5")
    ((1000, 2000), None)
    """
    start, _, end = name.partition("-")
    return (int(start), int(end)) if start.isdecimal() and end.isdecimal() else None


def range_of_offsets(log: Log, topic: str, offsets: Offsets) -> Range:
    """Return the range of the impressions at `offsets`, from their first to their last event time.

    Raises:
        ConfigError: a partition does not exist, or there is no record.
        LogError: a record is gone.
    """
    num_partitions = log.num_partitions(topic)
    times_ms: list[int] = []
    for partition, (start, stop) in offsets.items():
        if not (0 <= partition < num_partitions and 0 <= start < stop):
            raise ConfigError(
                f"replay offsets must be PARTITION:START-STOP within {num_partitions} partitions, got {partition}:{start}-{stop}"
            )
        stop = min(stop, log.end_offset(topic, partition))
        times_ms += event_times(log, topic, partition, (start, stop))
    if not times_ms:
        raise ConfigError(f"replay offsets must hold impressions of {topic!r}, got none")
    return Range(min(times_ms), max(times_ms) + 1, offsets)


@dataclass(frozen=True)
class Shard:
    """Impressions of [from_ms, to_ms), joined with the records of [read_from_ms, read_to_ms)."""

    number: int  # from 0
    total: int  # shards of the range
    from_ms: int
    to_ms: int
    read_from_ms: int
    read_to_ms: int


def shards_of(within: Range, rules: Rules, shard_ms: int | None = None, first_ms: int = 0) -> list[Shard]:
    """Return the shards of a range in order, without those before `first_ms`.

    Each has `shard_ms`; by default so much that at most a tenth is read twice, and a range has at most 1000.

    Before a shard an action may wait for its impression, after it actions may come as long as the joiner remembers a request.
    """
    before_ms = rules.window_ms + 2 * rules.max_out_of_orderness_ms
    after_ms = rules.window_ms + rules.allowed_lateness_ms + rules.max_out_of_orderness_ms
    length_ms = shard_ms or max(_SHARD_MS, _SHARD_MARGINS * (before_ms + after_ms), (within.end_ms - within.start_ms) // _MAX_SHARDS + 1)
    if within.offsets is not None:
        length_ms = within.end_ms - within.start_ms
    starts = range(within.start_ms, within.end_ms, length_ms)
    ends = [*starts[1:], within.end_ms]
    return [
        Shard(number, len(starts), start, end, start - before_ms, end + after_ms)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end > first_ms
    ]


def first_event_ms(log: Log, topic: str) -> int:
    """Return the oldest event time in the first impressions of all partitions, 0 without one."""
    times_ms: list[int] = []
    for partition in range(log.num_partitions(topic)):
        start = log.start_offset(topic, partition)
        stop = min(start + _LOOK_BEHIND, log.end_offset(topic, partition))
        times_ms += event_times(log, topic, partition, (start, stop))
    return min(times_ms, default=0)


def event_times(log: Log, topic: str, partition: int, offsets: tuple[int, int]) -> Iterator[int]:
    """Yield the event times of the impressions of [start, stop) in order; a record that is none has that of the log."""
    for chunk in _read_log(log, topic, partition, offsets, lambda *_: None):
        yield from (event_time_ms(record.value, Impression, record.time_ms) for record in chunk)


def blocks_of(
    source: Input, log: Log | None, place: tuple[InputTopic, int], shard: Shard, count: Count
) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield the offsets and values of one topic and partition that a shard may need, block by block in order; count damaged ones.

    Raises:
        ArchiveError: a file cannot be read.
        LogError: the log is away, or chosen offsets are gone.
    """
    input_topic, partition = place
    topic = source.topics[input_topic]
    if source.archive is not None:
        files = _files_of(source.archive, place, shard)
        yield from _in_blocks(_by_block(_read_archive(files, topic)))
        return
    assert log is not None
    if source.offsets is not None and input_topic == InputTopic.IMPRESSIONS:
        start, stop = source.offsets.get(partition, (0, 0))
        stop = min(stop, log.end_offset(topic, partition))
    else:
        start = log.offset_at(topic, partition, max(shard.read_from_ms, 0))
        stop = _stop_offset(log, topic, partition, shard.read_to_ms, _EVENTS[input_topic])
    yield from _in_blocks(_read_log(log, topic, partition, (start, stop), count))


def partitions_of_archive(folder: Path, within: Range) -> int:
    """Return the number of partitions that the impressions of a range have, at least 1.

    Raises:
        ArchiveError: the folder is no archive.
    """
    files = archived_files(folder, InputTopic.IMPRESSIONS.name.lower(), within.start_ms, within.end_ms)
    return max((file.partition + 1 for file in files), default=1)


def own_offsets(source: Input, log: Log | None, place: tuple[InputTopic, int], shard: Shard) -> tuple[int, int]:
    """Return the offsets [start, stop) whose invalid records count for this shard and no other one."""
    start, stop = 0, NO_END
    if log is not None and source.archive is None:
        input_topic, partition = place
        if shard.number > 0:
            start = log.offset_at(source.topics[input_topic], partition, max(shard.from_ms, 0))
        if shard.number + 1 < shard.total:
            stop = log.offset_at(source.topics[input_topic], partition, max(shard.to_ms, 0))
    return start, stop


def _in_blocks(chunks: Iterable[list[Record]]) -> Iterator[tuple[list[int], list[bytes]]]:
    offsets: list[int] = []
    values: list[bytes] = []
    for chunk in chunks:
        for part in _by_block(chunk):
            if offsets and _block(offsets[0]) != _block(part[0].offset):
                yield offsets, values
                offsets, values = [], []
            offsets += [record.offset for record in part]
            values += [record.value for record in part]
    if offsets:
        yield offsets, values


def _files_of(folder: Path, place: tuple[InputTopic, int], shard: Shard) -> list[ArchivedFile]:
    """Return the files of the hours of a shard, and those with offsets in between: they have records that arrived at the same time."""
    input_topic, partition = place
    # One listing: between two of them a compaction may replace the files of an hour.
    files = [file for file in archived_files(folder, input_topic.name.lower(), 0, NO_END) if file.partition == partition]
    first, last = max(shard.read_from_ms, 0) // HOUR_MS, max(shard.read_to_ms - 1, 0) // HOUR_MS
    starts: list[int] = []
    stops: list[int] = []
    for start, stop in sorted((file.start, file.stop) for file in files if first <= file.hour <= last):
        if stops and start <= stops[-1]:
            stops[-1] = max(stops[-1], stop)
        else:
            starts.append(start)
            stops.append(stop)
    return [file for file in files if (after := bisect_left(starts, file.stop)) and stops[after - 1] > file.start]


def _by_block(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the records of each block; records that a log has read are of one block as a rule."""
    if isinstance(records, list) and _block(records[0].offset) == _block(records[-1].offset):
        yield records
        return
    yield from (list(block) for _, block in groupby(records, lambda record: _block(record.offset)))


def _block(offset: int) -> int:
    return offset // BLOCK_RECORDS


def _read_archive(files: list[ArchivedFile], topic: str) -> Iterator[Record]:
    """Yield the records of files of one partition in the order of the log; a file is opened once an offset has reached it.

    Files of one commit have their records in between each other, and so have compacted hours with records that came late.
    """
    waiting = deque(sorted(files, key=attrgetter("start", "stop")))
    opened: list[tuple[int, int, Record, Iterator[Record]]] = []  # heap by the offset of the next record
    number = 0
    while waiting or opened:
        while waiting and (not opened or waiting[0].start <= opened[0][0]):
            records = read_records(waiting.popleft(), topic)
            if (first := next(records, None)) is not None:
                heapq.heappush(opened, (first.offset, number := number + 1, first, records))
        if not opened:
            continue
        _, place, record, records = opened[0]
        yield record
        if (following := next(records, None)) is None:
            heapq.heappop(opened)
        else:
            heapq.heapreplace(opened, (following.offset, place, following, records))


def _read_log(log: Log, topic: str, partition: int, offsets: tuple[int, int], count: Count) -> Iterator[list[Record]]:
    """Yield the records of [start, stop) in order; count damaged ones as malformed."""
    offset, stop = offsets
    while offset < stop:
        wanted = min(BLOCK_RECORDS - offset % BLOCK_RECORDS, stop - offset)
        try:
            records = log.read(topic, partition, offset, wanted)
        except RecordsDamaged as error:
            count("malformed", error.next_offset - offset)
            offset = error.next_offset
            continue
        if not records:
            return
        offset = records[-1].offset + 1
        if offset > stop:
            records = [record for record in records if record.offset < stop]
        if records:
            yield records


def _stop_offset(log: Log, topic: str, partition: int, stop_ms: int, event: type[Action | Impression]) -> int:
    """Return the offset after the last record that may be before `stop_ms`.

    The first record with a later time may be one with a wrong clock, with the whole range behind it: the records that follow are looked
    at until _LOOK_BEHIND in a row are not before `stop_ms`, by the time of the record and by that in it.
    """
    stop = offset = log.offset_at(topic, partition, stop_ms)
    end = log.end_offset(topic, partition)
    while offset < end and offset - stop < _LOOK_BEHIND:
        try:
            records = log.read(topic, partition, offset, _LOOK_BEHIND)
        except RecordsDamaged as error:
            offset = error.next_offset
            continue
        if not records:
            break
        for record in records:
            if min(record.time_ms, event_time_ms(record.value, event, record.time_ms)) < stop_ms:
                stop = record.offset + 1
        offset = records[-1].offset + 1
    return stop
