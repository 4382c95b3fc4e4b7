"""Input of a replay: ranges of the log's topics by time or by offsets, or files of an archive, as spans that workers read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from monolith_py.config import JobConfig
from monolith_py.data.events import Action, Impression
from monolith_py.errors import ConfigError, RecordsDamaged
from monolith_py.io import Log, Record, open_log
from monolith_py.io.archive import ArchivedFile, archived_files, read_records
from monolith_py.io.codec import event_time_ms
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic

SPAN_RECORDS = 2000
# Longest list of offsets in a name of a topic, which has 249 characters at most.
_NAME_CHARS = 100
_EVENTS: dict[InputTopic, type[Action | Impression]] = {InputTopic.IMPRESSIONS: Impression, InputTopic.ACTIONS: Action}
_READ_S = 1.0
Count = Callable[[str, int], None]
Offsets = Mapping[int, tuple[int, int]]  # partition -> [start, stop)


class Span(NamedTuple):
    """Records [start, stop) of one partition; those in `file`, if there is one."""

    input_topic: InputTopic
    topic: str
    partition: int
    start: int
    stop: int
    file: ArchivedFile | None = None


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
        span = Span(InputTopic.IMPRESSIONS, topic, partition, start, min(stop, log.end_offset(topic, partition)))
        times_ms += [event_time_ms(record.value, Impression, record.time_ms) for record in read_log(log, span, lambda *_: None)]
    if not times_ms:
        raise ConfigError(f"replay offsets must hold impressions of {topic!r}, got none")
    return Range(min(times_ms), max(times_ms) + 1, offsets)


def spans_of(log: Log, topics: Mapping[InputTopic, str], rules: Rules, within: Range) -> list[Span]:
    """Return spans with all impressions of the range and all actions that may belong to them."""
    spans = []
    for input_topic, (first_ms, stop_ms) in _times(rules, within).items():
        topic = topics[input_topic]
        for partition in range(log.num_partitions(topic)):
            if within.offsets is not None and input_topic == InputTopic.IMPRESSIONS:
                first, stop = within.offsets.get(partition, (0, 0))
                stop = min(stop, log.end_offset(topic, partition))
            else:
                first = log.offset_at(topic, partition, max(first_ms, 0))
                stop = _stop_offset(log, topic, partition, stop_ms, _EVENTS[input_topic])
            spans += [
                Span(input_topic, topic, partition, start, min(start + SPAN_RECORDS, stop)) for start in range(first, stop, SPAN_RECORDS)
            ]
    return spans


def spans_of_archive(folder: Path, rules: Rules, within: Range) -> list[Span]:
    """Return the files with the impressions of the range and with all actions that may belong to them.

    Raises:
        ArchiveError: the folder is no archive of both.
    """
    return [
        Span(input_topic, input_topic.name.lower(), file.partition, file.start, file.stop, file)
        for input_topic, (first_ms, stop_ms) in _times(rules, within).items()
        for file in archived_files(folder, input_topic.name.lower(), first_ms, stop_ms)
    ]


def read_records_of(span: Span, job: JobConfig, count: Count) -> Iterator[Record]:
    """Yield the records of a span in order; damaged ones are counted as malformed."""
    if span.file is not None:
        yield from read_records(span.file, span.topic)
        return
    with closing(open_log(job.log)) as log:
        yield from read_log(log, span, count)


def read_log(log: Log, span: Span, count: Count) -> Iterator[Record]:
    """Yield the records of a span of the log."""
    offset = span.start
    while offset < span.stop:
        try:
            records = log.read(span.topic, span.partition, offset, min(SPAN_RECORDS, span.stop - offset), timeout_s=_READ_S)
        except RecordsDamaged as error:
            count("malformed", error.next_offset - offset)
            offset = error.next_offset
            continue
        if not records:
            return
        yield from (record for record in records if record.offset < span.stop)
        offset = records[-1].offset + 1


def _times(rules: Rules, within: Range) -> dict[InputTopic, tuple[int, int]]:
    """Return the event times of the records to be read, by topic."""
    bound_ms = rules.max_out_of_orderness_ms
    last_ms = within.end_ms + rules.window_ms + rules.allowed_lateness_ms
    return {
        InputTopic.IMPRESSIONS: (within.start_ms, within.end_ms + bound_ms),
        InputTopic.ACTIONS: (within.start_ms - bound_ms, last_ms + bound_ms),
    }


def _stop_offset(log: Log, topic: str, partition: int, stop_ms: int, event: type[Action | Impression]) -> int:
    """Return the offset after the last record that may be before `stop_ms`.

    The first record with a later time may be one with a wrong clock, with the whole range behind it: the records that follow are looked
    at until SPAN_RECORDS in a row are not before `stop_ms`, by the time of the record and by that in it.
    """
    stop = offset = log.offset_at(topic, partition, stop_ms)
    end = log.end_offset(topic, partition)
    while offset < end and offset - stop < SPAN_RECORDS:
        try:
            records = log.read(topic, partition, offset, SPAN_RECORDS, timeout_s=_READ_S)
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
