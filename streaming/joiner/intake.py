"""Valid impressions and actions from the records of one partition; invalid records are refused with the reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from monolith_py.clock import Clock
from monolith_py.errors import OffsetTrimmed, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_action
from monolith_py.io.codec.impression_view import ImpressionView, parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.observe import metrics
from monolith_streaming.joiner.position import Position
from monolith_streaming.joiner.rules import Rules, SeenAction
from monolith_streaming.joiner.watermark import InputTopic, Watermark

_logger = logging.getLogger(__name__)


class SeenImpression(NamedTuple):
    """An impression and its offset in its partition."""

    impression: ImpressionView
    offset: int


class Refused(NamedTuple):
    """A message for the dead letters."""

    topic: str
    partition: int
    offset: int
    value: bytes
    reason: str


@dataclass
class Arrivals:
    """Result of one round of reads, in the order of the offsets."""

    impressions: list[SeenImpression] = field(default_factory=list)
    actions: list[SeenAction] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    num_records: int = 0


class Intake:
    """Reads `topics`, up to `max_records` of a topic and partition at a time."""

    def __init__(
        self, log: Log, topics: Mapping[InputTopic, str], rules: Rules, patterns: WirePatterns, max_records: int, clock: Clock
    ) -> None:
        self._log, self._topics, self._rules, self._patterns = log, topics, rules, patterns
        self._max_records, self._clock = max_records, clock

    def read(self, number: int, position: Position, watermark: Watermark, wait_s: float) -> Arrivals:
        """Return the next records of partition `number` and move `position` and `watermark` past them; wait up to `wait_s` for each topic.

        A topic that is ahead in event time is not read while the other one has a backlog. A topic counts as idle only if it was empty when
        read after the other one: both may resume between two reads, and the watermark would pass the records of the one read first.
        """
        arrivals = Arrivals()

        def read(input_topic: InputTopic, wait_s: float) -> bool:
            if watermark.is_ahead(input_topic):
                return False
            records = self._next_records(number, input_topic, position, wait_s)
            watermark.note_read(input_topic, len(records), self._max_records, self._clock.monotonic_s())
            self._sort_out(records, input_topic, watermark, arrivals)
            return bool(records)

        # The log has an impression before the actions on it.
        has_actions = read(InputTopic.ACTIONS, wait_s)
        if read(InputTopic.IMPRESSIONS, wait_s) and not has_actions:
            read(InputTopic.ACTIONS, 0.0)
        return arrivals

    def _next_records(self, number: int, input_topic: InputTopic, position: Position, wait_s: float) -> list[Record]:
        try:
            records = self._log.read(self._topics[input_topic], number, position.offsets[input_topic], self._max_records, timeout_s=wait_s)
        except OffsetTrimmed as error:
            _logger.error("records lost, reading on at offset %d: %s", error.start, error)
            position.offsets[input_topic] = error.start
            return []
        if records:
            position.offsets[input_topic] = records[-1].offset + 1
        return records

    def _sort_out(self, records: list[Record], input_topic: InputTopic, watermark: Watermark, arrivals: Arrivals) -> None:
        wall_ms = self._clock.now_ms()
        for record in records:
            try:
                if input_topic == InputTopic.IMPRESSIONS:
                    impression = parse_impression(record.value, self._patterns)
                    _check_time(input_topic, impression.time_ms, watermark, wall_ms)
                    arrivals.impressions.append(SeenImpression(impression, record.offset))
                else:
                    action = decode_action(record.value)
                    _check_time(input_topic, action.time_ms, watermark, wall_ms)
                    if self._rules.matters(action):
                        arrivals.actions.append(SeenAction(action, record.offset, record.value))
            except WireError as error:
                arrivals.refused.append(Refused(record.topic, record.partition, record.offset, record.value, str(error)))
        arrivals.num_records += len(records)
        counter = metrics.IMPRESSIONS_READ if input_topic == InputTopic.IMPRESSIONS else metrics.ACTIONS_READ
        counter.inc(len(records))


def _check_time(input_topic: InputTopic, time_ms: int, watermark: Watermark, wall_ms: int) -> None:
    broken_rule = watermark.observe(input_topic, time_ms, wall_ms)
    if broken_rule is not None:
        raise WireError(f"{'impression' if input_topic == InputTopic.IMPRESSIONS else 'action'}.{broken_rule}")
