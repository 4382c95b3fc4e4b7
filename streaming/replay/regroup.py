"""Steps of a replay: read spans of records, join each request from all its records, encode the examples by time.

Plain functions over picklable values, which a batch system can distribute; the state machine is that of the online joiner. A request's
records are processed in the order of the log. The online joiner gives the same examples if no event is later than `max_out_of_orderness_s`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action, EventTimeRule
from monolith_py.errors import WireError
from monolith_py.io.codec import decode_action
from monolith_py.io.codec.impression_view import ImpressionView, parse_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_streaming.joiner.emit import Encoding, parts_of
from monolith_streaming.joiner.request import Emission, Outcome, Request, SeenAction
from monolith_streaming.joiner.rules import FOREVER_MS, Rules, advance, see_action, see_impression
from monolith_streaming.joiner.waiting import WaitingRequest
from monolith_streaming.joiner.watermark import InputTopic
from monolith_streaming.replay.source import Count, Range, Span, read_records_of

# Emissions of this much event time are sorted and encoded together.
SLOT_MS = 10 * 60 * 1000


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


def read_span(
    span: Span, job: JobConfig, rules: Rules, patterns: WirePatterns, clock: Clock, count: Count
) -> Iterator[tuple[tuple[int, str], Grouped]]:
    """Yield ((partition, request id), record) for the valid records of a span."""
    time_rule = EventTimeRule.of(job.log)
    for record in read_records_of(span, job, count):
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
    request, outcome = Request(request_id, features=view), Outcome()
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
