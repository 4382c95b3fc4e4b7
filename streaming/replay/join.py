"""Joins one shard of one partition by the joiner's core, in the order and by the watermark of an online joiner with a backlog.

A topic that was read to its end does not hold the watermark back. Memory: the requests of `window_s` + `allowed_lateness_s`, and some
blocks of records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from monolith_py import _core
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.io import Log
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_streaming.joiner.core_partition import CorePartition, Judge, core_settings, parts_of_step
from monolith_streaming.joiner.emit import Encoding
from monolith_streaming.joiner.position import Position, Progress
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import MAX_JUMP_MS, InputTopic, Watermark, WatermarkState
from monolith_streaming.replay.output import Step
from monolith_streaming.replay.source import BLOCK_RECORDS, NO_END, Count, Input, Shard, blocks_of, event_times, own_offsets

# A step ends with this many examples.
STEP_EXAMPLES = 4096
# Records behind one that show that it is ahead of them, as in a joiner with default settings.
_NUM_AHEAD = 8
# So many of them agree with a record that is no jump.
_NUM_AGREEING = 3
# Impressions before chosen offsets from which their event time is taken.
_CLOCK_RECORDS = 1000
# A topic counts as idle once it was read to its end: its clock stands at 0, that of the watermark at this.
_IDLE_S = 1.0
# Counters in the order of the core's numbers.
CORE_COUNTS = (
    "requests",
    "impressions",
    "actions",
    "labelled",
    "retraction",
    "sampled_away",
    "actions_without_impression",
    "actions_refused",
    "impressions_late",
)


@dataclass(frozen=True)
class Joining:
    """Parts that all shards of a replay share."""

    job: JobConfig
    source: Input
    log: Log | None  # None for an archive
    metadata: Mapping[str, str]  # of all records
    wall_ms: int  # events ahead of it are refused
    max_bytes: int  # of a record
    count: Count


class ShardJoiner:
    """Joins one shard of one partition."""

    def __init__(self, joining: Joining, partition: int, shard: Shard) -> None:
        self._joining, job, rules = joining, joining.job, Rules.of(joining.job)
        patterns = WirePatterns(Schema.of(job).dense_dims)
        begin = Position(Progress([0, 0], _clock_before(joining, rules, partition)), 0)
        self._core = CorePartition(_settings(job, rules, shard), rules, begin, 0.0).core
        self._judge = Judge(job, patterns)
        self._encoding = Encoding(rules, patterns, job.joiner.examples_per_record)
        places = [(topic, partition) for topic in InputTopic]
        self._blocks = [blocks_of(joining.source, joining.log, place, shard, joining.count) for place in places]
        self._own = [own_offsets(joining.source, joining.log, place, shard) for place in places]
        self._is_at_end = [False for _ in InputTopic]

    @property
    def num_requests(self) -> int:
        """Return the number of requests in memory."""
        return self._core.num_requests

    def steps(self) -> Iterator[Step]:
        """Yield the examples of the shard, step by step, in the order in which their labels become known; a step may have none.

        Raises:
            ArchiveError: a file cannot be read.
            LogError: the log is away.
        """
        core = self._core
        while True:
            for topic in InputTopic:
                self._fill(topic)
            is_idle = any(self._is_at_end[topic] and not core.num_read_ahead(topic) for topic in InputTopic)
            num_records, has_more = core.run(_IDLE_S if is_idle else 0.0, self._joining.wall_ms)
            if has_more or core.num_emitted >= STEP_EXAMPLES:
                yield self._step()
            elif num_records == 0 and all(self._is_at_end):
                break
        while core.close_some():
            yield self._step()
        yield self._step()

    def _fill(self, topic: InputTopic) -> None:
        """Read a topic ahead, by half a block of records at least, as far as there are any."""
        core, wall_ms = self._core, self._joining.wall_ms
        while not self._is_at_end[topic] and core.num_read_ahead(topic) < BLOCK_RECORDS // 2:
            offsets, values = next(self._blocks[topic], ([], []))
            self._is_at_end[topic] = not offsets
            # With fewer records than wanted the topic has no more.
            wanted = NO_END if self._is_at_end[topic] else 0
            core.push(topic, offsets, values, wanted, wall_ms, partial(self._judge.judge, topic, wall_ms=wall_ms))
        core.note_read(topic, 0.0)

    def _step(self) -> Step:
        """End the step and return its examples."""
        core, count = self._core, self._joining.count
        written = core.written()
        ranges = [(0, len(written))] if len(written) else []
        parts = parts_of_step(written, ranges, self._encoding, lambda *_: self._joining.metadata, self._joining.max_bytes)
        step = Step(written.newest_ms(), [part.value for part in parts])
        for name, number in zip(CORE_COUNTS, core.take_range_counts(), strict=True):
            if number:
                count(name, number)
        malformed = sum(self._own[topic][0] <= offset < self._own[topic][1] for topic, offset, _, _ in core.refused_records())
        if malformed:
            count("malformed", malformed)
        core.end_step(0, 0)
        core.clear_step()
        return step


def _clock_before(joining: Joining, rules: Rules, partition: int) -> WatermarkState:
    """Return the event time of the impressions before chosen offsets: it tells which of those chosen have come too late."""
    state, source, log = WatermarkState(), joining.source, joining.log
    if log is None or source.offsets is None:
        return state
    watermark = Watermark(rules.max_out_of_orderness_ms, _IDLE_S, joining.job.joiner.agreeing_records, state, 0.0)
    topic, (stop, _) = source.topics[InputTopic.IMPRESSIONS], source.offsets.get(partition, (0, 0))
    start = max(log.start_offset(topic, partition), stop - _CLOCK_RECORDS)
    before = [time_ms for time_ms in event_times(log, topic, partition, (start, stop)) if time_ms <= joining.wall_ms]
    behind = event_times(log, topic, partition, (stop, min(stop + _NUM_AHEAD, log.end_offset(topic, partition))))
    times_ms = [*before, *(time_ms for time_ms in behind if time_ms <= joining.wall_ms)]
    for number, time_ms in enumerate(before):
        is_jump = watermark.is_jump(InputTopic.IMPRESSIONS, time_ms)
        if not (is_jump and _is_alone(times_ms[number + 1 :][:_NUM_AHEAD], time_ms)):
            watermark.observe(InputTopic.IMPRESSIONS, time_ms, joining.wall_ms)
    return state


def _is_alone(behind: Sequence[int], time_ms: int) -> bool:
    """Return whether the records behind one show that its time is not that of its topic, as the joiner's intake has it."""
    num_agreeing = sum(one >= time_ms - MAX_JUMP_MS for one in behind)
    return len(behind) == _NUM_AHEAD and num_agreeing < _NUM_AGREEING


def _settings(job: JobConfig, rules: Rules, shard: Shard) -> _core.JoinerSettings:
    settings = core_settings(job, rules, Schema.of(job).dense_dims)
    settings.num_ahead, settings.idle_timeout_s = _NUM_AHEAD, _IDLE_S
    # An action counts where each impression that it may belong to was read.
    remembered_ms = rules.window_ms + rules.allowed_lateness_ms
    actions_from_ms = shard.from_ms + remembered_ms if shard.number > 0 else shard.from_ms
    actions_to_ms = shard.to_ms + remembered_ms if shard.number + 1 < shard.total else NO_END
    settings.set_range((shard.from_ms, shard.to_ms), (actions_from_ms, actions_to_ms))
    return settings
