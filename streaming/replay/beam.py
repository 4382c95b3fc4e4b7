"""The Beam pipeline of the replay. The only module that imports Beam.

Read spans -> group by request -> join each group by the joiner's rules -> group by partition and time -> encode -> group by partition ->
write. Per-key state and timers would run 3,000 events/s; this runs several times as many (ARCHITECTURE.md, Decisions). The workers write
to the output themselves: they share the log, or the folder of an archive, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from monolith_py.clock import Clock, SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import Log, open_log
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic
from monolith_streaming.replay.output import FOREIGN, METADATA_KEY, FolderOutput, SlotPart, TopicOutput, encoded
from monolith_streaming.replay.regroup import Joined, encode_slot, join_group, read_span
from monolith_streaming.replay.source import Offsets, Range, Span, range_of_offsets, spans_of, spans_of_archive

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
    "records_written",
    "records_present",
)
_NAMESPACE = "replay"


@dataclass(frozen=True)
class ReplayOptions:
    """Input, output and runner of a replay; by default the topics of the job, a new topic, and this machine."""

    archive: Path | None = None  # folder with the input, in place of the topics
    prefix: str | None = None  # of the topics of the input; None: that of the job
    offsets: Offsets | None = None  # of the impressions, in place of a time range
    folder: Path | None = None  # of the output as Parquet files, in place of a topic
    pipeline_args: Sequence[str] = field(default=LOCAL_RUNNER)


@dataclass(frozen=True)
class ReplayResult:
    """Counts of a replay. `topic`: its output, a topic or a folder. `records_present`: records that an earlier run of it had appended."""

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
    job: JobConfig, *, start_ms: int = 0, end_ms: int = 0, output: str | None = None, options: ReplayOptions | None = None
) -> ReplayResult:
    """Join the impressions of [start_ms, end_ms), or those at `options.offsets`, with their actions; write the examples.

    The default output is a new topic, named after the job's examples and the range, with as many partitions as the impressions have.
    Workers on other machines need access to the log, and to the folders of `options`.

    Raises:
        ArchiveError: the input is no archive, or the folder of the output cannot be written.
        ConfigError: the range is empty, the output has fewer partitions than the impressions, or records of another replay of the range.
        LogError: a topic is missing, or the log is away.
    """
    options = options or ReplayOptions()
    if options.offsets is None and start_ms >= end_ms:
        raise ConfigError(f"replay end must be after its start {start_ms}, got {end_ms}")
    if options.archive and (options.offsets is not None or options.prefix is not None):
        raise ConfigError("replay must read an archive by time, got offsets or a prefix of topics, too")
    if options.folder and output:
        raise ConfigError(f"replay must have one output, got topic {output!r} and folder {str(options.folder)!r}")
    with ExitStack() as stack:
        log = None if options.archive and options.folder else stack.enter_context(closing(open_log(job.log)))
        within, spans, num_partitions = _input(job, log, Range(start_ms, end_ms), options)
        target = _target(job, log, output, (within, num_partitions), options.folder)
    _warn_of_open_windows(Rules.of(job), within, SystemClock())
    counts = _run_pipeline(job, spans, within, (target, num_partitions), options.pipeline_args)
    name = str(target.folder) if isinstance(target, FolderOutput) else target.topic
    foreign = sorted(int(one.removeprefix(FOREIGN)) for one, number in counts.items() if one.startswith(FOREIGN) and number)
    if foreign:
        rule = "must have no other replay of this range"
        raise ConfigError(f"replay output {name!r}[{foreign[0]}] {rule}, got one of {within.name}: choose another")
    target.end()
    if not counts.get("requests"):
        _logger.warning("the range %s to %s ms has no impression in %r", within.start_ms, within.end_ms, Topics.of(job.log).impressions)
    return ReplayResult(topic=name, **{one: counts.get(one, 0) for one in COUNTS})


def _input(job: JobConfig, log: Log | None, within: Range, options: ReplayOptions) -> tuple[Range, list[Span], int]:
    """Return the range, its spans, and the number of partitions of the impressions."""
    rules = Rules.of(job)
    if options.archive:
        spans = spans_of_archive(options.archive, rules, within)
        return within, spans, max((span.partition + 1 for span in spans), default=1)
    assert log is not None
    prefix = job.log.topic_prefix if options.prefix is None else options.prefix
    topics = Topics.of(job.log.model_copy(update={"topic_prefix": prefix}))
    if options.offsets is not None:
        within = range_of_offsets(log, topics.impressions, options.offsets)
    inputs = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
    return within, spans_of(log, inputs, rules, within), log.num_partitions(topics.impressions)


def _target(
    job: JobConfig, log: Log | None, output: str | None, given: tuple[Range, int], folder: Path | None
) -> TopicOutput | FolderOutput:
    within, num_partitions = given
    if folder is not None:
        target = FolderOutput(folder, within.name, repr((Rules.of(job), Schema.of(job))))
        target.begin()
        return target
    assert log is not None
    topic = output or f"{Topics.of(job.log).examples}-replay-{within.name}"
    log.create_topic(topic, num_partitions)
    if log.num_partitions(topic) < num_partitions:
        raise ConfigError(f"replay output {topic!r} must have {num_partitions} partitions, got {log.num_partitions(topic)}")
    return TopicOutput(job, topic, within.name)


def _warn_of_open_windows(rules: Rules, within: Range, clock: Clock) -> None:
    left_ms = within.end_ms + rules.window_ms + rules.allowed_lateness_ms - clock.now_ms()
    if left_ms > 0:
        _logger.warning("actions of the range may still come for %.0f s: examples of its end may lack them", left_ms / 1000)


def _run_pipeline(
    job: JobConfig, spans: list[Span], within: Range, output: tuple[TopicOutput | FolderOutput, int], pipeline_args: Sequence[str]
) -> dict[str, int]:
    """Run the pipeline and return its counts."""
    target, num_partitions = output
    rules, patterns = Rules.of(job), WirePatterns(Schema.of(job).dense_dims)
    encode = partial(_encode, rules=rules, patterns=patterns, size=job.joiner.examples_per_record, metadata={METADATA_KEY: within.name})
    pipeline = beam.Pipeline(options=PipelineOptions(list(pipeline_args)))
    slots = (
        pipeline
        | "spans" >> beam.Create(spans)
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(read_span, job, rules, patterns, SystemClock(), _count)
        | "by request" >> beam.GroupByKey()
        | "join" >> beam.FlatMap(join_group, rules, patterns, within, _count)
        | "by time" >> beam.GroupByKey()
        | "encode" >> beam.FlatMap(encode)
    )
    # A partition without examples is written, too: it may have records of another replay.
    every = pipeline | "partitions" >> beam.Create([(number, None) for number in range(num_partitions)])
    _ = (slots, every) | "all" >> beam.Flatten() | "by partition" >> beam.GroupByKey() | "write" >> beam.FlatMap(_write, target)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    return {counter.key.metric.name: int(counter.result) for counter in found}


def _count(name: str, increment: int) -> None:
    Metrics.counter(_NAMESPACE, name).inc(increment)


def _encode(
    slot: tuple[tuple[int, int], Iterable[Joined]], *, rules: Rules, patterns: WirePatterns, size: int, metadata: dict[str, str]
) -> Iterator[tuple[int, SlotPart]]:
    (partition, number), joined = slot
    newest_ms, values = encode_slot(joined, rules, patterns, size, metadata)
    yield from ((partition, part) for part in encoded(number, newest_ms, values))


def _write(group: tuple[int, Iterable[SlotPart]], target: TopicOutput | FolderOutput) -> Iterator[None]:
    partition, slots = group
    target.write(partition, slots, _count)
    yield from ()
