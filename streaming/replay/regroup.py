"""Steps of a replay: read spans of records, join each request from all its records, encode the examples by time.

Plain functions over picklable values, which a batch system can distribute; the state machine is that of the online joiner. A request's
records are processed in the order of the log. The online joiner gives the same examples if no event is later than `max_out_of_orderness_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action, EventTimeRule, Impression
from monolith_py.errors import RecordsDamaged, WireError
from monolith_py.io import Log, open_log
from monolith_py.io.codec import decode_action, event_time_ms
from monolith_py.io.codec.impression_view import ImpressionView, parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_streaming.joiner.emit import Encoding, parts_of
from monolith_streaming.joiner.request import Emission, Outcome, Request, SeenAction
from monolith_streaming.joiner.rules import FOREVER_MS, Rules, advance, see_action, see_impression
from monolith_streaming.joiner.waiting import WaitingRequest
from monolith_streaming.joiner.watermark import InputTopic

# Emissions of this much event time are sorted and encoded together.
SLOT_MS = 10 * 60 * 1000
SPAN_RECORDS = 2000
_EVENTS: dict[InputTopic, type[Action | Impression]] = {InputTopic.IMPRESSIONS: Impression, InputTopic.ACTIONS: Action}
Count = Callable[[str, int], None]


class Span(NamedTuple):
    """Records [start, stop) of one partition."""

    input_topic: InputTopic
    topic: str
    partition: int
    start: int
    stop: int


class Grouped(NamedTuple):
    """One record of a request."""

    input_topic: InputTopic
    offset: int
    value: bytes


class Joined(NamedTuple):
    """Emissions of one request within one slot of time."""

    offset: int  # of the impression
    value: bytes
    emissions: list[Emission]


@dataclass(frozen=True)
class Range:
    """Impressions of [start_ms, end_ms) and all their actions."""

    start_ms: int
    end_ms: int

    @property
    def name(self) -> str:
        """Return the name of the range, for topics and metadata."""
        return f"{self.start_ms}-{self.end_ms}"


def spans_of(log: Log, topics: dict[InputTopic, str], rules: Rules, within: Range) -> list[Span]:
    """Return spans with all impressions of the range and all actions that may belong to them."""
    bound_ms = rules.max_out_of_orderness_ms
    last_ms = within.end_ms + rules.window_ms + rules.allowed_lateness_ms
    times = {
        InputTopic.IMPRESSIONS: (within.start_ms, within.end_ms + bound_ms),
        InputTopic.ACTIONS: (within.start_ms - bound_ms, last_ms + bound_ms),
    }
    spans = []
    for input_topic, topic in topics.items():
        first_ms, stop_ms = times[input_topic]
        for partition in range(log.num_partitions(topic)):
            first = log.offset_at(topic, partition, max(first_ms, 0))
            stop = _stop_offset(log, topic, partition, stop_ms, _EVENTS[input_topic])
            spans += [
                Span(input_topic, topic, partition, start, min(start + SPAN_RECORDS, stop)) for start in range(first, stop, SPAN_RECORDS)
            ]
    return spans


def _stop_offset(log: Log, topic: str, partition: int, stop_ms: int, event: type[Action | Impression]) -> int:
    """Return the offset after the last record that may be before `stop_ms`.

    The first record with a later time may be one with a wrong clock, with the whole range behind it: the records that follow are looked
    at until SPAN_RECORDS in a row are not before `stop_ms`, by the time of the record and by that in it.
    """
    stop = offset = log.offset_at(topic, partition, stop_ms)
    end = log.end_offset(topic, partition)
    while offset < end and offset - stop < SPAN_RECORDS:
        try:
            records = log.read(topic, partition, offset, SPAN_RECORDS, timeout_s=1.0)
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


def read_span(
    span: Span, job: JobConfig, rules: Rules, patterns: WirePatterns, clock: Clock, count: Count
) -> Iterator[tuple[tuple[int, str], Grouped]]:
    """Yield ((partition, request id), record) for the valid records of a span."""
    topic, offset, time_rule = span.topic, span.start, EventTimeRule.of(job.log)
    with closing(open_log(job.log.url)) as log:
        while offset < span.stop:
            try:
                records = log.read(topic, span.partition, offset, min(SPAN_RECORDS, span.stop - offset), timeout_s=1.0)
            except RecordsDamaged as error:
                count("malformed", error.next_offset - offset)
                offset = error.next_offset
                continue
            if not records:
                return
            offset = records[-1].offset + 1
            for record in records:
                if record.offset >= span.stop:
                    return
                try:
                    request_id = _request_id(span.input_topic, record.value, rules, patterns, (time_rule, clock.now_ms()))
                except WireError:
                    count("malformed", 1)
                    continue
                if request_id is not None:
                    count("impressions" if span.input_topic == InputTopic.IMPRESSIONS else "actions", 1)
                    yield (span.partition, request_id), Grouped(span.input_topic, record.offset, record.value)


def join_group(
    group: tuple[tuple[int, str], Iterable[Grouped]], rules: Rules, patterns: WirePatterns, within: Range, count: Count
) -> Iterator[tuple[tuple[int, int], Joined]]:
    """Yield ((partition, slot of time), emissions) of one request, given all its records."""
    (partition, request_id), records = group
    by_offset = sorted(records)
    impression = next((record for record in by_offset if record.input_topic == InputTopic.IMPRESSIONS), None)
    actions = [record for record in by_offset if record.input_topic == InputTopic.ACTIONS]
    if impression is None:
        count("actions_without_impression", len(actions))
        return
    view = parse_impression(impression.value, patterns)
    if not within.start_ms <= view.time_ms < within.end_ms:
        return
    count("requests", 1)
    request, outcome = Request(request_id), Outcome()
    see_impression(rules, request, view.time_ms, view.item_ids, outcome)
    for action in actions:
        see_action(rules, request, SeenAction(decode_action(action.value), action.offset, action.value), outcome)
    advance(rules, request, FOREVER_MS, outcome)
    count("actions_refused", len(outcome.refused))
    slots: dict[int, list[Emission]] = {}
    for emission in outcome.emissions:
        count("sampled_away" if emission.kind is None else emission.kind.name.lower(), 1)
        if emission.kind is not None:
            slots.setdefault(emission.known_ms // SLOT_MS, []).append(emission)
    for slot, emissions in slots.items():
        yield (partition, slot), Joined(impression.offset, impression.value, emissions)


def encode_slot(
    joined: Iterable[Joined], rules: Rules, patterns: WirePatterns, examples_per_record: int, metadata: dict[str, str]
) -> tuple[int, list[bytes]]:
    """Return the newest event time of a slot's examples, and their records in the order in which the labels became known."""
    ordered: list[tuple[int, int, int, WaitingRequest, Emission]] = []
    for one in joined:
        impression = ImpressionView(one.value)
        request = Request(impression.request_id, impression.time_ms, item_ids=impression.item_ids)
        waiting = WaitingRequest(request, one.offset, impression)
        ordered += [(emission.known_ms, one.offset, index, waiting, emission) for index, emission in enumerate(one.emissions)]
    ordered.sort(key=itemgetter(0, 1, 2))
    pairs = [(waiting, emission) for _, _, _, waiting, emission in ordered]
    newest_ms = max(waiting.request.time_ms for waiting, _ in pairs)
    parts = parts_of(pairs, Encoding(rules, patterns, examples_per_record), lambda index, is_last: metadata)
    return newest_ms, [part.value for part in parts]


def _request_id(
    input_topic: InputTopic, value: bytes, rules: Rules, patterns: WirePatterns, clock: tuple[EventTimeRule, int]
) -> str | None:
    """Return the request id of a record, None for an action without effect on labels.

    Raises:
        WireError: the record is not valid, or its event time breaks the rule.
    """
    time_rule, wall_ms = clock
    event = parse_impression(value, patterns) if input_topic == InputTopic.IMPRESSIONS else decode_action(value)
    fault = time_rule.fault(event.time_ms, wall_ms)
    if fault is not None:
        raise WireError(fault)
    return event.request_id if not isinstance(event, Action) or rules.matters(event) else None
