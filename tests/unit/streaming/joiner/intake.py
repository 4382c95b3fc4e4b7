"""Valid impressions and actions from the records of one partition, for the reference; invalid records are refused with the reason."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action, DeadLetter, EventTimeRule
from monolith_py.errors import OffsetTrimmed, RecordsDamaged, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_action
from monolith_py.io.codec.impression_view import ImpressionView, parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_py.observe import metrics
from monolith_streaming.joiner.core_partition import NAMES, num_ahead
from monolith_streaming.joiner.position import Position
from monolith_streaming.joiner.request import NEVER_MS, SeenAction
from monolith_streaming.joiner.rules import FOREVER_MS, Rules
from monolith_streaming.joiner.watermark import MAX_JUMP_MS, InputTopic, Watermark, check_wall_clock

_logger = logging.getLogger(__name__)

# Records behind one that are looked at, and those of them that must agree with it to a day.
_LOOK_AHEAD, _AGREEING = 8, 3


class SeenImpression(NamedTuple):
    """An impression and its offset in its partition."""

    impression: ImpressionView
    offset: int
    clock_ms: int = NEVER_MS  # event time of its topic before it


class _Entry(NamedTuple):
    """A record read and parsed, and not processed yet."""

    input_topic: InputTopic
    time_ms: int  # event time; of an invalid record that of the record before it
    record: Record
    parsed: ImpressionView | Action | WireError


@dataclass
class _Buffer:
    """Records of one topic and partition that were read ahead."""

    entries: deque[_Entry] = field(default_factory=deque)
    # Oldest event time of each entry and those after it: a record with a time ahead of its neighbours must not hold them back.
    order_ms: deque[int] = field(default_factory=deque)
    next_offset: int = 0  # of the next read
    has_backlog: bool = False  # the last read was full: the topic has more
    num_valid: int = 0  # entries without those of invalid records

    def extend(self, entries: Sequence[_Entry]) -> None:
        """Append entries in the order of their offsets."""
        oldest_ms, order_ms = FOREVER_MS, []
        for entry in reversed(entries):
            oldest_ms = min(oldest_ms, entry.time_ms)
            order_ms.append(oldest_ms)
        place = len(self.order_ms) - 1
        while place >= 0 and self.order_ms[place] > oldest_ms:
            self.order_ms[place] = oldest_ms
            place -= 1
        self.entries.extend(entries)
        self.order_ms.extend(reversed(order_ms))
        self.num_valid += sum(not isinstance(entry.parsed, WireError) for entry in entries)

    def is_alone(self, time_ms: int) -> bool:
        """Return whether the records behind one, if there are enough, show that its time is not that of its topic."""
        valid = (entry.time_ms for entry in self.entries if not isinstance(entry.parsed, WireError))
        behind_ms = list(islice(valid, _LOOK_AHEAD))
        return len(behind_ms) == _LOOK_AHEAD and sum(other_ms >= time_ms - MAX_JUMP_MS for other_ms in behind_ms) < _AGREEING

    def pop(self) -> _Entry:
        """Remove the first entry and return it."""
        self.order_ms.popleft()
        entry = self.entries.popleft()
        self.num_valid -= not isinstance(entry.parsed, WireError)
        return entry


class Intake:
    """Reads `topics` ahead, up to `max_records` of a topic and partition, and merges them by event time.

    A joiner that works off a backlog then sees records in the order in which it would have seen them live: an impression, the actions on
    it, and the end of its window, before what happened later. A topic without a backlog has no part in this, so live records are
    processed as they arrive.
    """

    def __init__(self, job: JobConfig, log: Log, rules: Rules, patterns: WirePatterns, clock: Clock) -> None:
        topics = Topics.of(job.log)
        self._topics = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
        self._log, self._rules, self._patterns, self._clock = log, rules, patterns, clock
        self._max_records, self._time_rule = job.joiner.max_records, EventTimeRule.of(job.log)
        self._num_ahead = num_ahead(self._max_records)
        self._buffers: dict[int, dict[InputTopic, _Buffer]] = {}

    def fill(self, number: int, position: Position, watermark: Watermark, wait_s: float) -> None:
        """Read partition `number` ahead; wait up to `wait_s` for each topic.

        A topic counts as idle only if it was empty when read after the other one: both may resume between two reads, and the watermark
        would pass the records of the one read first.
        """
        # The log has an impression before the actions on it.
        has_actions = self._read(number, InputTopic.ACTIONS, position, watermark, wait_s)
        if self._read(number, InputTopic.IMPRESSIONS, position, watermark, wait_s) and not has_actions:
            self._read(number, InputTopic.ACTIONS, position, watermark, 0.0)

    def request_ids(self, number: int) -> list[str]:
        """Return the request ids of the records that `events` would yield now."""
        horizon_ms = self._horizon_ms(number)
        return [
            entry.parsed.request_id
            for buffer in self._buffers[number].values()
            for entry, order_ms in zip(buffer.entries, buffer.order_ms, strict=True)
            if order_ms <= horizon_ms and not isinstance(entry.parsed, WireError)
        ]

    def events(self, number: int, position: Position, watermark: Watermark) -> Iterator[SeenImpression | SeenAction | DeadLetter | None]:
        """Yield the records read ahead by event time, None for an action without effect; move `position` and `watermark` past each.

        Stops where a topic with a backlog may have an earlier record that was not read yet.
        """
        buffers, horizon_ms = self._buffers[number], self._horizon_ms(number)
        while heads := [(buffer.order_ms[0], input_topic) for input_topic, buffer in buffers.items() if buffer.entries]:
            order_ms, input_topic = min(heads)
            buffer = buffers[input_topic]
            if order_ms > horizon_ms or (buffer.has_backlog and len(buffer.entries) <= self._num_ahead):
                return
            entry = buffer.pop()
            position.offsets[entry.input_topic] = entry.record.offset + 1
            yield self._event(entry, watermark, buffer)

    def _horizon_ms(self, number: int) -> int:
        """Return the event time up to which all records were read, as far as the last records of each backlog tell."""
        backlogs = (buffer for buffer in self._buffers[number].values() if buffer.has_backlog and buffer.entries)
        return min((buffer.order_ms[-min(len(buffer.entries), self._num_ahead or 1)] for buffer in backlogs), default=FOREVER_MS)

    def _event(self, entry: _Entry, watermark: Watermark, buffer: _Buffer) -> SeenImpression | SeenAction | DeadLetter | None:
        record, parsed = entry.record, entry.parsed
        # A record is judged by its topic's time before it: by the log, not by how far the other topic was read.
        clock_ms, broken_rule = watermark.clock_ms(entry.input_topic), None
        if not isinstance(parsed, WireError):
            if watermark.is_jump(entry.input_topic, entry.time_ms) and buffer.is_alone(entry.time_ms):
                broken_rule = f"time_ms must be at most {MAX_JUMP_MS} ms ahead of the newest event {clock_ms}, got {entry.time_ms}"
            else:
                watermark.observe(entry.input_topic, entry.time_ms, self._clock.now_ms())
        counter = metrics.IMPRESSIONS_READ if entry.input_topic == InputTopic.IMPRESSIONS else metrics.ACTIONS_READ
        counter.inc()
        if isinstance(parsed, WireError):
            return DeadLetter(record.topic, record.partition, record.offset, record.value, str(parsed))
        if broken_rule is not None:
            reason = f"{NAMES[entry.input_topic]}.{broken_rule}"
            return DeadLetter(record.topic, record.partition, record.offset, record.value, reason)
        if isinstance(parsed, Action):
            if not self._rules.matters(parsed):
                metrics.ACTIONS_UNUSED.labels(reason="kind").inc()
                return None
            if parsed.value <= 0 and parsed.kind in self._rules.bits:
                metrics.ACTIONS_UNUSED.labels(reason="value").inc()
            return SeenAction(parsed, record.offset, record.value, clock_ms)
        return SeenImpression(parsed, record.offset, clock_ms)

    def _read(self, number: int, input_topic: InputTopic, position: Position, watermark: Watermark, wait_s: float) -> bool:
        """Read one topic ahead and return whether it has records to process."""
        buffer = self._buffers.setdefault(number, {}).get(input_topic)
        if buffer is None:
            buffer = self._buffers[number][input_topic] = _Buffer(next_offset=position.offsets[input_topic])
        wanted = self._max_records - len(buffer.entries)
        if 2 * wanted >= self._max_records:
            before_ms = buffer.entries[-1].time_ms if buffer.entries else 0
            entries = self._next_entries(input_topic, buffer, (number, position), before_ms, wait_s if not buffer.entries else 0.0)
            buffer.has_backlog = len(entries) >= wanted
            buffer.extend(entries)
        watermark.note_read(input_topic, buffer.num_valid, self._clock.monotonic_s())
        return bool(buffer.entries)

    def _next_entries(
        self, input_topic: InputTopic, buffer: _Buffer, place: tuple[int, Position], before_ms: int, wait_s: float
    ) -> list[_Entry]:
        """Read the next records of a partition; `before_ms` is the event time of the record before them."""
        number, position = place
        wanted = self._max_records - len(buffer.entries)
        try:
            records = self._log.read(self._topics[input_topic], number, buffer.next_offset, wanted, timeout_s=wait_s)
        except OffsetTrimmed as error:
            _logger.error("records lost, reading on at offset %d: %s", error.start, error)
            metrics.RECORDS_LOST.labels(topic=error.topic).inc(error.start - error.offset)
            buffer.next_offset = error.start
            if not buffer.entries:
                position.offsets[input_topic] = error.start
            return []
        except RecordsDamaged as error:
            _logger.error("reading on at offset %d: %s", error.next_offset, error)
            metrics.RECORDS_LOST.labels(topic=error.topic).inc(error.next_offset - error.offset)
            buffer.next_offset = error.next_offset
            last = Record(error.topic, number, error.next_offset - 1, before_ms, b"")
            return [_Entry(input_topic, before_ms, last, WireError(str(error)))]
        entries = []
        wall_ms = self._clock.now_ms()
        # Here too: the clock may have stepped while the read waited, and the rule on event time would refuse what it brought.
        check_wall_clock(position.watermark, wall_ms, self._time_rule.max_skew_ms)
        for record in records:
            entries.append(self._parse(input_topic, record, before_ms, wall_ms))
            before_ms = entries[-1].time_ms
        if records:
            buffer.next_offset = records[-1].offset + 1
        return entries

    def _parse(self, input_topic: InputTopic, record: Record, before_ms: int, wall_ms: int) -> _Entry:
        """Return the entry of a record; `before_ms` is the event time of the record before it, which an invalid one takes."""
        parsed: ImpressionView | Action
        try:
            if input_topic == InputTopic.IMPRESSIONS:
                parsed = parse_impression(record.value, self._patterns)
            else:
                parsed = decode_action(record.value)
        except WireError as error:
            return _Entry(input_topic, before_ms, record, error)
        fault = self._time_rule.fault(parsed.time_ms, wall_ms)
        if fault is not None:
            return _Entry(input_topic, before_ms, record, WireError(f"{NAMES[input_topic]}.{fault}"))
        return _Entry(input_topic, parsed.time_ms, record, parsed)
