"""Records of one partition to valid impressions and actions; what is not valid is set apart with the reason."""

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
    """A message that goes to the dead letters."""

    topic: str
    partition: int
    offset: int
    value: bytes
    reason: str


@dataclass
class Arrivals:
    """What one round of reads gave, in the order of the offsets."""

    impressions: list[SeenImpression] = field(default_factory=list)
    actions: list[SeenAction] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    num_records: int = 0


class Intake:
    """Reads `topics` in steps of `max_records` a topic and partition."""

    def __init__(
        self, log: Log, topics: Mapping[InputTopic, str], rules: Rules, patterns: WirePatterns, max_records: int, clock: Clock
    ) -> None:
        self._log, self._topics, self._rules, self._patterns = log, topics, rules, patterns
        self._max_records, self._clock = max_records, clock

    def read(self, number: int, position: Position, watermark: Watermark, wait_s: float) -> Arrivals:
        """Return the next records of partition `number` and move `position` and `watermark` past them; wait up to `wait_s` for each topic.

        A topic that is ahead of the other in event time is left alone while the other has a backlog. What is silent for long is believed
        to be so only by a read that comes after that of the other topic: both may wake between two reads, and the one that was read
        first would let the other alone move the watermark past all that it holds.
        """
        arrivals = Arrivals()

        def read(source: InputTopic, wait_s: float) -> bool:
            if watermark.is_ahead(source):
                return False
            records = self._next_records(self._topics[source], number, source, position, wait_s)
            watermark.note_read(source, len(records), self._max_records, self._clock.monotonic_s())
            self._sort_out(records, source, watermark, arrivals)
            return bool(records)

        # An impression is appended before what is done with it.
        has_actions = read(InputTopic.ACTIONS, wait_s)
        if read(InputTopic.IMPRESSIONS, wait_s) and not has_actions:
            read(InputTopic.ACTIONS, 0.0)
        return arrivals

    def _next_records(self, topic: str, number: int, source: InputTopic, position: Position, wait_s: float) -> list[Record]:
        try:
            records = self._log.read(topic, number, position.offsets[source], self._max_records, timeout_s=wait_s)
        except OffsetTrimmed as error:
            _logger.error("records are lost, going on at %d: %s", error.start, error)
            position.offsets[source] = error.start
            return []
        if records:
            position.offsets[source] = records[-1].offset + 1
        return records

    def _sort_out(self, records: list[Record], source: InputTopic, watermark: Watermark, arrivals: Arrivals) -> None:
        wall_ms = self._clock.now_ms()
        for record in records:
            try:
                if source == InputTopic.IMPRESSIONS:
                    impression = parse_impression(record.value, self._patterns)
                    _check_time(source, impression.time_ms, watermark, wall_ms)
                    arrivals.impressions.append(SeenImpression(impression, record.offset))
                else:
                    action = decode_action(record.value)
                    _check_time(source, action.time_ms, watermark, wall_ms)
                    if self._rules.matters(action):
                        arrivals.actions.append(SeenAction(action, record.offset, record.value))
            except WireError as error:
                arrivals.refused.append(Refused(record.topic, record.partition, record.offset, record.value, str(error)))
        arrivals.num_records += len(records)
        counter = metrics.IMPRESSIONS_READ if source == InputTopic.IMPRESSIONS else metrics.ACTIONS_READ
        counter.inc(len(records))


def _check_time(source: InputTopic, time_ms: int, watermark: Watermark, wall_ms: int) -> None:
    broken_rule = watermark.refusal(source, time_ms, wall_ms)
    if broken_rule is not None:
        raise WireError(f"{'impression' if source == InputTopic.IMPRESSIONS else 'action'}.{broken_rule}")
