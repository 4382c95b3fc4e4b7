"""The Beam pipeline of the replay. The only module that imports Beam.

An element is a partition, or a shard of one if the output is files: its worker reads the records in their order, joins them in the
joiner's core and writes the examples. Nothing else goes through Beam: records that are grouped by request in Beam cost ten times as much
(ARCHITECTURE.md, Decisions), and the memory of its local runner. The workers share the log, or the folders, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from monolith_py.clock import Clock, SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import Log, open_log
from monolith_py.io.log.topics import Topics
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic
from monolith_streaming.replay.folder_output import FolderOutput
from monolith_streaming.replay.join import CORE_COUNTS, Joining, ShardJoiner
from monolith_streaming.replay.output import Foreign, shard_metadata
from monolith_streaming.replay.progress import Progress
from monolith_streaming.replay.source import (
    Input,
    Offsets,
    Range,
    Shard,
    first_event_ms,
    partitions_of_archive,
    range_of_offsets,
    shards_of,
)
from monolith_streaming.replay.topic_output import TopicOutput

_logger = logging.getLogger(__name__)

# Beam's Python runner by its own name: DirectRunner may choose a runner that downloads a binary at its start.
LOCAL_RUNNER = ("--runner=FnApiRunner",)
# Counters of the pipeline.
COUNTS = (*CORE_COUNTS, "malformed", "records_written", "records_present")
# Changes with the bytes that a replay writes.
_FORMAT = 1
# Counter of a partition whose output has other records.
_FOREIGN = "foreign_records_"
_NAMESPACE = "replay"


@dataclass(frozen=True)
class ReplayOptions:
    """Input, output and runner of a replay; by default the topics of the job, a new topic, and this machine."""

    archive: Path | None = None  # folder with the input, in place of the topics
    prefix: str | None = None  # of the topics of the input; None: that of the job
    offsets: Offsets | None = None  # of the impressions, in place of a time range
    folder: Path | None = None  # of the output as Parquet files, in place of a topic
    pipeline_args: Sequence[str] = field(default=LOCAL_RUNNER)
    shard_ms: int | None = None  # length of the parts of a range, in each of which a replay can resume; None: some hours


@dataclass(frozen=True)
class ReplayResult:
    """Counts of a replay. `topic`: its output, a topic or a folder. `records_present`: records that an earlier run of it had appended.

    The others are about the shards that were joined now: those that an earlier run has completed are left out.
    """

    topic: str
    requests: int
    impressions: int
    actions: int
    labelled: int
    retraction: int
    sampled_away: int
    actions_without_impression: int
    actions_refused: int
    impressions_late: int  # so far behind the others that their requests were forgotten
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
        within, source, num_partitions = _input(job, log, Range(start_ms, end_ms), options)
        target = _target(job, log, output, (within, num_partitions), options)
        first_ms = 0 if log is None or options.archive else first_event_ms(log, source.topics[InputTopic.IMPRESSIONS])
    _warn_of_open_windows(Rules.of(job), within, SystemClock())
    tasks = _tasks(shards_of(within, Rules.of(job), options.shard_ms, first_ms), num_partitions, splits=options.folder is not None)
    counts = _run_pipeline(tasks, _Worker(job, source, target), options.pipeline_args)
    name = str(target.folder) if isinstance(target, FolderOutput) else target.topic
    foreign = sorted(int(one.removeprefix(_FOREIGN)) for one, number in counts.items() if one.startswith(_FOREIGN) and number)
    if foreign:
        rule = "must have no other replay of this range"
        raise ConfigError(f"replay output {name!r}[{foreign[0]}] {rule}, got one of {within.name}: choose another")
    target.end()
    result = ReplayResult(topic=name, **{one: counts.get(one, 0) for one in COUNTS})
    if not (result.requests or result.records_present):
        _logger.warning("the range %s to %s ms has no impression in %r", within.start_ms, within.end_ms, Topics.of(job.log).impressions)
    return result


def _input(job: JobConfig, log: Log | None, within: Range, options: ReplayOptions) -> tuple[Range, Input, int]:
    """Return the range, the place of its records, and the number of partitions of the impressions."""
    prefix = job.log.topic_prefix if options.prefix is None else options.prefix
    topics = Topics.of(job.log.model_copy(update={"topic_prefix": prefix}))
    inputs = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
    source = Input(inputs, options.archive, options.offsets)
    if options.archive:
        return within, source, partitions_of_archive(options.archive, within)
    assert log is not None
    num_partitions = log.num_partitions(topics.impressions)
    log.num_partitions(topics.actions)  # the topic must exist
    if options.offsets is not None:
        within = range_of_offsets(log, topics.impressions, options.offsets)
    return within, source, num_partitions


def rules_text(job: JobConfig, shard_ms: int | None) -> str:
    """Return a text that two replays of a range share, in whatever process, if they write the same records."""
    rules = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in vars(Rules.of(job)).items()}
    return repr((_FORMAT, rules, Schema.of(job), job.joiner.examples_per_record, shard_ms))


def _target(
    job: JobConfig, log: Log | None, output: str | None, given: tuple[Range, int], options: ReplayOptions
) -> TopicOutput | FolderOutput:
    within, num_partitions = given
    rules = rules_text(job, options.shard_ms)
    if options.folder is not None:
        target = FolderOutput(options.folder, within.name, rules)
        target.begin()
        return target
    assert log is not None
    topic = output or f"{Topics.of(job.log).examples}-replay-{within.name}"
    log.create_topic(topic, num_partitions)
    if log.num_partitions(topic) < num_partitions:
        raise ConfigError(f"replay output {topic!r} must have {num_partitions} partitions, got {log.num_partitions(topic)}")
    return TopicOutput(job, topic, within.name, blake2b(rules.encode(), digest_size=8).hexdigest())


def _warn_of_open_windows(rules: Rules, within: Range, clock: Clock) -> None:
    left_ms = within.end_ms + rules.window_ms + rules.allowed_lateness_ms - clock.now_ms()
    if left_ms > 0:
        _logger.warning("actions of the range may still come for %.0f s: examples of its end may lack them", left_ms / 1000)


def _tasks(shards: list[Shard], num_partitions: int, *, splits: bool) -> list[tuple[int, list[Shard]]]:
    """Return the work of the pipeline: shards of a partition for one worker, all of them in order unless it `splits`."""
    every = range(num_partitions)
    return [(number, [shard]) for number in every for shard in shards] if splits else [(number, shards) for number in every]


@dataclass(frozen=True)
class _Worker:
    """Joins shards of one partition and writes their examples."""

    job: JobConfig
    source: Input
    target: TopicOutput | FolderOutput

    def __call__(self, task: tuple[int, list[Shard]]) -> Iterator[None]:
        """Process a task; a partition with other records is counted and left alone."""
        partition, shards = task
        try:
            with ExitStack() as stack:
                self._join(partition, shards, stack)
        except Foreign:
            _count(f"{_FOREIGN}{partition}", 1)
        yield from ()

    def _join(self, partition: int, shards: list[Shard], stack: ExitStack) -> None:
        clock = SystemClock()
        log = None
        if self.source.archive is None:
            log = RetryingLog(stack.enter_context(closing(open_log(self.job.log))), RetryPolicy(clock))
        progress = Progress(clock, partition)
        output = stack.enter_context(closing(self.target.open(partition, _count)))
        for shard in shards:
            if shard.number < output.first_shard:
                continue
            metadata = shard_metadata(self.target.name, shard.number, self.target.rules)
            joining = Joining(self.job, self.source, log, metadata, clock.now_ms(), output.max_record_bytes, progress.counting(_count))
            for step in ShardJoiner(joining, partition, shard).steps():
                output.write(shard.number, step)
                progress.report(shard)
            output.end_shard(shard)
        output.end()
        progress.end()


def _run_pipeline(tasks: list[tuple[int, list[Shard]]], worker: _Worker, pipeline_args: Sequence[str]) -> dict[str, int]:
    """Run the pipeline and return its counts."""
    pipeline = beam.Pipeline(options=PipelineOptions(list(pipeline_args)))
    _ = pipeline | "shards" >> beam.Create(tasks) | "spread" >> beam.Reshuffle() | "join" >> beam.FlatMap(worker)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    return {counter.key.metric.name: int(counter.result) for counter in found}


def _count(name: str, increment: int) -> None:
    Metrics.counter(_NAMESPACE, name).inc(increment)
