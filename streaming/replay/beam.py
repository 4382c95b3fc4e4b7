"""The Beam pipeline of the replay. The only module that imports Beam.

Read spans -> group by request -> join each group by the joiner's rules -> group by partition and time -> encode into files.
Per-key state and timers would run 3,000 events/s; this runs several times as many (ARCHITECTURE.md, Decisions). Afterwards this
process alone appends the records, in the order of time. Each record has the replay's name in its metadata, so a second run of an
interrupted replay appends only the missing ones.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError, WireError
from monolith_py.io import Log, open_log
from monolith_py.io.codec import examples_metadata
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic
from monolith_streaming.replay.regroup import Joined, Range, Span, encode_slot, join_group, read_span, spans_of
from monolith_streaming.replay.slots import Slot, decode_slot_file, encode_slot_file

_logger = logging.getLogger(__name__)

# Beam's Python runner by its own name: DirectRunner may choose a runner that downloads a binary at its start.
LOCAL_RUNNER = ("--runner=FnApiRunner",)
# Counters of the pipeline.
COUNTS = (
    "requests",
    "impressions",
    "actions",
    "labelled",
    "retraction",
    "sampled_away",
    "actions_refused",
    "actions_without_impression",
    "malformed",
)
_NAMESPACE = "replay"
_METADATA_KEY = "replay"


@dataclass(frozen=True)
class ReplayResult:
    """Counts of a replay. `records_present`: records that an earlier run of the same replay had appended."""

    topic: str
    requests: int
    impressions: int
    actions: int
    labelled: int
    retraction: int
    sampled_away: int
    actions_refused: int
    actions_without_impression: int
    malformed: int
    records_written: int
    records_present: int


def run_replay(
    job: JobConfig, *, start_ms: int, end_ms: int, output: str | None, pipeline_args: Sequence[str] = LOCAL_RUNNER
) -> ReplayResult:
    """Join the impressions of [start_ms, end_ms) with their actions and append the examples to topic `output`.

    The default is a new topic, named after the job's examples and the range, with as many partitions as the impressions have. A runner on
    other machines (`pipeline_args`) needs access to this machine's temporary files and to the log.

    Raises:
        ConfigError: the range is empty, the output has fewer partitions than the impressions, or records of another replay of the range.
        LogError: a topic is missing, or the log is away.
    """
    if start_ms >= end_ms:
        raise ConfigError(f"replay end must be after its start {start_ms}, got {end_ms}")
    topics, within = Topics.of(job.log), Range(start_ms, end_ms)
    output = output or f"{topics.examples}-replay-{within.name}"
    inputs = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
    with closing(open_log(job.log.url)) as log, tempfile.TemporaryDirectory(prefix="replay-") as folder:
        num_partitions = log.num_partitions(topics.impressions)
        log.create_topic(output, num_partitions)
        if log.num_partitions(output) < num_partitions:
            raise ConfigError(f"replay output {output!r} must have {num_partitions} partitions, got {log.num_partitions(output)}")
        spans = spans_of(log, inputs, Rules.of(job), within)
        counts = _run_pipeline(job, spans, within, folder, pipeline_args)
        written = present = 0
        for partition in range(num_partitions):
            files = sorted(Path(folder).glob(f"{partition:05d}-*.records"))
            appended, found = _append(log, output, partition, within, (decode_slot_file(file.read_bytes()) for file in files))
            written, present = written + appended, present + found
    if not counts.get("requests"):
        _logger.warning("the range %s to %s ms has no impression in %r", start_ms, end_ms, topics.impressions)
    return ReplayResult(topic=output, records_written=written, records_present=present, **{name: counts.get(name, 0) for name in COUNTS})


def _run_pipeline(job: JobConfig, spans: list[Span], within: Range, folder: str, pipeline_args: Sequence[str]) -> dict[str, int]:
    """Write a file of records into `folder` for each partition and slot of time; return the counts."""
    rules, patterns = Rules.of(job), WirePatterns(Schema.of(job).dense_dims)
    write = partial(
        _write_slot,
        folder=folder,
        rules=rules,
        patterns=patterns,
        size=job.joiner.examples_per_record,
        metadata={_METADATA_KEY: within.name},
    )
    pipeline = beam.Pipeline(options=PipelineOptions(list(pipeline_args)))
    _ = (
        pipeline
        | "spans" >> beam.Create(spans)
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(read_span, job, rules, patterns, SystemClock(), _count)
        | "by request" >> beam.GroupByKey()
        | "join" >> beam.FlatMap(join_group, rules, patterns, within, _count)
        | "by time" >> beam.GroupByKey()
        | "encode" >> beam.Map(write)
    )
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    return {counter.key.metric.name: int(counter.result) for counter in found}


def _count(name: str, increment: int) -> None:
    Metrics.counter(_NAMESPACE, name).inc(increment)


def _write_slot(
    slot: tuple[tuple[int, int], Iterable[Joined]],
    *,
    folder: str,
    rules: Rules,
    patterns: WirePatterns,
    size: int,
    metadata: dict[str, str],
) -> None:
    """Write one file atomically; a runner may call this twice."""
    (partition, number), joined = slot
    newest_ms, values = encode_slot(joined, rules, patterns, size, metadata)
    path = Path(folder) / f"{partition:05d}-{number:012d}.records"
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(encode_slot_file(Slot(newest_ms, tuple(values))))
    Path(file.name).replace(path)


def _append(log: Log, topic: str, partition: int, within: Range, slots: Iterable[Slot]) -> tuple[int, int]:
    """Append the records that the partition lacks; return the numbers of records appended and of records found."""
    present = _records_of(log, topic, partition, within)
    num_present = num_written = 0
    for slot in slots:
        values = []
        for value in slot.values:
            earlier = next(present, None)
            if earlier is None:
                values.append(value)
            elif earlier == value:
                num_present += 1
            else:
                rule = "must have no other replay of this range"
                raise ConfigError(f"replay output {topic!r}[{partition}] {rule}, got one of {within.name}: choose another")
        if values:
            log.append(topic, values, time_ms=slot.time_ms, partition=partition)
            num_written += len(values)
    if next(present, None) is not None:
        raise ConfigError(f"replay output {topic!r}[{partition}] must have no more records than this replay, got more: choose another")
    return num_written, num_present


def _records_of(log: Log, topic: str, partition: int, within: Range) -> Iterator[bytes]:
    """Yield the records of the partition that a replay of this range wrote, in order."""
    offset, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    while offset < end:
        records = log.read(topic, partition, offset, 256, timeout_s=1.0)
        if not records:
            return
        for record in records:
            if record.offset < end and _replay_name(record.value) == within.name:
                yield record.value
        offset = records[-1].offset + 1


def _replay_name(value: bytes) -> str | None:
    try:
        return examples_metadata(value).get(_METADATA_KEY)
    except WireError:
        return None  # a bad record of another writer: the trainer puts it aside
