"""Source of a trainer that first learns a backfill or starts inside the topic, and then goes on with the job's live examples.

The two are cut at one event time: `live_from_ms`. Backfill has the examples of impressions before it, and of the live topic those of
impressions from then on are learnt, so that no example is missing and none is learnt twice. A replay of [start, end) is cut at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from monolith_py.clock import Clock
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import ConfigError
from monolith_py.io import Log
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_py.observe import metrics
from monolith_py.training import SourceMeta
from monolith_streaming.joiner.tail import records_from
from monolith_streaming.replay.output import ends_replay, last_record, last_records, replay_name
from monolith_streaming.replay.source import parse_range_name
from monolith_streaming.trainer.example_rules import ExampleRules
from monolith_streaming.trainer.source import ExampleSource
from monolith_streaming.trainer.step_order import SourcePlace

_logger = logging.getLogger(__name__)

Positions = Mapping[int, tuple[int, int]]  # partition -> (offset, row)


@dataclass(frozen=True)
class SourceOptions:
    """First examples of a new model.

    `topic`: a topic to be learnt before the job's examples; None: the job's examples alone. `start`: event time in milliseconds, or offset
    of each partition, at which that topic is begun; None: its oldest record. `live_from_ms`: event time of the impressions from which on
    the job's examples are learnt after the backfill; None: the end of the replays in `topic`.
    """

    topic: str | None = None
    start: int | Mapping[int, int] | None = None
    live_from_ms: int | None = None

    @property
    def name(self) -> str:
        """Return the options as a text, by which a checkpoint knows them."""
        start = self.start if isinstance(self.start, int) or self.start is None else dict(sorted(self.start.items()))
        return f"topic {self.topic!r} from {start}, live from {self.live_from_ms}"


@dataclass(frozen=True)
class SourceStart:
    """Positions and source of a checkpoint, or those of a new model."""

    positions: Positions  # in the job's examples
    source: SourceMeta | None
    steps: Mapping[int, JoinerStep] = field(default_factory=dict)  # before the positions


@dataclass(frozen=True)
class SourceParts:
    """Parts of the sources of one trainer."""

    log: Log
    topic: str  # of the job's examples
    dead_letters: DeadLetters
    clock: Clock
    rules: ExampleRules
    accepts_holes: bool = False

    def reader(self, topic: str, positions: Positions, steps: Mapping[int, JoinerStep], from_ms: int = 0) -> ExampleSource:
        """Return a source over one topic without the examples before `from_ms`."""
        place, rules = SourcePlace(positions, steps, self.accepts_holes), replace(self.rules, from_ms=from_ms)
        return ExampleSource(self.log, topic, place, self.dead_letters, self.clock, rules)


class TrainerSource:
    """Examples of one trainer: those of a backfill, then those of the job. `ExampleSource` describes the methods that both have.

    `positions`, `ends` and `has_reached` are about the job's examples. The end of a backfill is the end of its topic at the moment at which
    the trainer has learnt everything before.
    """

    def __init__(self, parts: SourceParts, start: SourceStart) -> None:
        source = start.source
        self._topic, self._source = parts.topic, source
        self._live = parts.reader(parts.topic, start.positions, start.steps, source.live_from_ms if source else 0)
        self._backfill = parts.reader(source.topic, source.offsets, {}) if source and not source.is_done else None
        self._last = self._backfill or self._live

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """Return the position in the job's examples."""
        return self._live.positions

    @property
    def steps(self) -> dict[int, JoinerStep]:
        """Return the joiner's steps before that position."""
        return self._live.steps

    @property
    def meta(self) -> SourceMeta | None:
        """Return the source for a checkpoint, with the position after the last batch of the backfill."""
        if self._source is None or self._backfill is None:
            return self._source
        return replace(self._source, offsets=self._backfill.positions)

    def origin_of(self, row: int) -> tuple[str, int, int]:
        """Return (topic, partition, offset) of the record that holds row `row` of the last batch."""
        topic = self._topic if self._last is self._live or self._source is None else self._source.topic
        return topic, *self._last.origin_of(row)

    @property
    def newest_event_ms(self) -> int:
        """Return the event time of the newest event that the joiner had read for the last batch, 0 if it is not known."""
        return self._last.newest_event_ms

    def ends(self) -> dict[int, int]:
        """Return the current end offset of each partition."""
        return self._live.ends()

    def has_reached(self, ends: Mapping[int, int]) -> bool:
        """Return whether the backfill and every record before `ends` were handed out."""
        return self._backfill is None and self._live.has_reached(ends)

    def lags(self) -> dict[int, int]:
        """Return the number of offsets of each partition behind the position."""
        return self._live.lags()

    def next_batch(self, size: int, linger_s: float, should_stop: Callable[[], bool]) -> ExampleBatch | None:
        """Return the next examples; a batch has those of one topic."""
        if self._backfill is not None:
            self._last = self._backfill
            batch = self._backfill.next_batch(size, linger_s, should_stop)
            if batch is not None or should_stop():
                return batch
            self._go_live()
        self._last = self._live
        return self._live.next_batch(size, linger_s, should_stop)

    def report(self) -> None:
        """Set the gauge of the backfill, and log how much of it is left."""
        if self._backfill is None or self._source is None:
            metrics.BACKFILL_LAG_RECORDS.set(0)
            return
        left = sum(self._backfill.lags().values())
        metrics.BACKFILL_LAG_RECORDS.set(left)
        _logger.info("backfill %r: %d of %d records left", self._source.topic, left, sum(self._backfill.ends().values()))

    def _go_live(self) -> None:
        assert self._source is not None and self._backfill is not None
        self._source = replace(self._source, offsets=self._backfill.positions, is_done=True)
        self._backfill = None
        metrics.BACKFILL_LAG_RECORDS.set(0)
        _logger.info("backfill %r is learnt, going on with %r from %d ms", self._source.topic, self._topic, self._source.live_from_ms)


def open_source(parts: SourceParts, options: SourceOptions | None, saved: SourceStart | None) -> TrainerSource:
    """Return the source of a trainer: that of its checkpoint `saved`, or of a new model with `options`.

    Raises:
        ConfigError: the checkpoint has another source; a partition does not exist; or a backfill does not say where it ends, or is a replay
            that has not ended.
        LogError: a topic is missing.
    """
    if saved is not None:
        known = saved.source.name if saved.source else "the job's examples"
        if options is not None and (saved.source is None or options.name != saved.source.name):
            raise ConfigError(f"--source, --from and --live-from must be those of the checkpoint, {known}, got {options.name}")
        return TrainerSource(parts, saved)
    if options is None:
        return TrainerSource(parts, SourceStart({}, None))
    if options.topic in (None, parts.topic):
        return TrainerSource(parts, _inside(parts, options))
    return TrainerSource(parts, _backfill(parts, options))


def _inside(parts: SourceParts, options: SourceOptions) -> SourceStart:
    """Return a start inside the job's examples."""
    if options.live_from_ms is not None:
        raise ConfigError(f"--live-from must come with --source, got {options.live_from_ms} without another topic")
    positions = _positions(parts.log, parts.topic, options.start)
    from_ms = options.start if isinstance(options.start, int) else 0
    return SourceStart(positions, SourceMeta(options.name, parts.topic, {}, from_ms, is_done=True))


def _backfill(parts: SourceParts, options: SourceOptions) -> SourceStart:
    assert options.topic is not None
    end_ms = _end_of_replays(parts.log, options.topic)
    live_from_ms = end_ms if options.live_from_ms is None else options.live_from_ms
    if live_from_ms is None:
        raise ConfigError(
            f"--live-from must be given with --source {options.topic}, whose records name no replay of a time range, got none"
        )
    positions = _positions(parts.log, parts.topic, live_from_ms)
    for partition, (offset, _) in positions.items():
        if 0 < offset == parts.log.start_offset(parts.topic, partition):
            rule = "examples after the backfill may be deleted already, the oldest one is at offset"
            _logger.warning("%r[%d]: %s %d", parts.topic, partition, rule, offset)
    offsets = _positions(parts.log, options.topic, options.start)
    _logger.info("backfill %r, then %r from %d ms", options.topic, parts.topic, live_from_ms)
    return SourceStart(positions, SourceMeta(options.name, options.topic, offsets, live_from_ms, is_done=False))


def _positions(log: Log, topic: str, start: int | Mapping[int, int] | None) -> dict[int, tuple[int, int]]:
    num_partitions = log.num_partitions(topic)
    if start is None:
        return {partition: (log.start_offset(topic, partition), 0) for partition in range(num_partitions)}
    if isinstance(start, int):
        return {partition: (log.offset_at(topic, partition, start), 0) for partition in range(num_partitions)}
    unknown = sorted(set(start) - set(range(num_partitions)))
    if unknown:
        raise ConfigError(f"--from must name partitions of {topic!r}, 0 to {num_partitions - 1}, got {unknown}")
    return {partition: (start.get(partition, log.start_offset(topic, partition)), 0) for partition in range(num_partitions)}


def _end_of_replays(log: Log, topic: str) -> int | None:
    """Return the latest end of the replays that wrote the first and last records of the topic, None if there is none.

    Raises:
        ConfigError: the last replay has not ended.
    """
    names = []
    for partition in range(log.num_partitions(topic)):
        first = islice(records_from(log, topic, partition, 0), 1)
        ends = chain(first, last_records(log, topic, partition, 2))  # the last one may be that of the end
        names += [name for record in ends if (name := replay_name(record.value))]
    last = last_record(log, topic, 0)
    if names and (last is None or not ends_replay(last.value)):
        raise ConfigError(f"--source {topic} must be a replay that has ended, got one that has not: run it again, to its end")
    return max((bounds[1] for name in names if (bounds := parse_range_name(name))), default=None)
