"""Stored state is decoded unchanged, cut state is refused, and the outbox appends only missing records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.events import Action
from monolith_py.errors import WireError
from monolith_py.io.codec import encode_action
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_streaming.joiner.outbox import Outbox, decode_outbox, deliver, encode_outbox
from monolith_streaming.joiner.position import Position, decode_position, encode_position
from monolith_streaming.joiner.request import LateAction, Request, SeenAction
from monolith_streaming.joiner.waiting import WaitingRequest, decode_waiting, encode_waiting
from monolith_streaming.joiner.watermark import WatermarkState

World = Any
int64 = st.integers(-(2**63), 2**63 - 1)
times = st.integers(1, 2**62)


@st.composite
def seen_actions(draw: st.DrawFn) -> SeenAction:
    action = Action("r", draw(int64), draw(st.text(min_size=1, max_size=5)), draw(times), draw(st.floats(-9, 9, width=32)))
    return SeenAction(action, draw(st.integers(0, 2**40)), encode_action(action))


@st.composite
def waitings(draw: st.DrawFn) -> WaitingRequest:
    items = draw(st.lists(int64, max_size=4))
    labels = [draw(st.integers(0, 2**64 - 1)) for _ in items]
    statuses = [draw(st.integers(0, 3)) for _ in items]
    early = draw(st.lists(seen_actions(), max_size=3))
    late = [LateAction(draw(st.integers(0, 9)), seen) for seen in draw(st.lists(seen_actions(), max_size=3))]
    request = Request("r", draw(times), draw(times), items, labels, statuses, early, late)
    value = draw(st.binary(max_size=50))
    return WaitingRequest(request, draw(st.integers(0, 2**40)), ImpressionView(value) if value else None)


def value_of(waiting: WaitingRequest) -> bytes | None:
    return waiting.impression and waiting.impression.value


@given(waitings())
def test_a_waiting_request_is_decoded_unchanged(waiting: WaitingRequest) -> None:
    back = decode_waiting("r", encode_waiting(waiting, keep_impression=True))
    assert (back.request, back.offset, value_of(back)) == (waiting.request, waiting.offset, value_of(waiting))
    assert decode_waiting("r", encode_waiting(waiting, keep_impression=False)).impression is None


@given(waitings(), st.integers(1, 1000))
def test_a_waiting_request_that_is_cut_is_refused(waiting: WaitingRequest, num_bytes: int) -> None:
    value = encode_waiting(waiting, keep_impression=True)
    with pytest.raises(WireError, match="'r'"):
        decode_waiting("r", value[: max(0, len(value) - num_bytes)])


@given(st.integers(0, 2**60), st.lists(st.binary(max_size=20), max_size=5))
def test_an_outbox_is_decoded_unchanged_and_refused_if_cut(start: int, values: list[bytes]) -> None:
    outbox = Outbox(start, 5, tuple(values))
    encoded = encode_outbox(outbox)
    assert decode_outbox(encoded) == outbox
    if values:
        with pytest.raises(WireError, match="outbox"):
            decode_outbox(encoded[:-1])


def test_a_position_is_decoded_unchanged() -> None:
    position = Position([5, 7], 9, WatermarkState(3, [1, None], 4, [0, 2], True, 5))
    assert decode_position(encode_position(position)) == position


def test_the_stored_form_of_a_position_is_pinned() -> None:
    watermark = b'{"watermark_ms": 3, "newest_ms": [1, null], "newest_at_ms": 4, "refusals": [0, 2], "is_confirmed": true'
    watermark += b', "furthest_seen_ms": 5}'
    value = b'{"version": 2, "tasks": ["a", "b"], "offsets": [5, 7], "examples_end": 9, "reached": ' + watermark + b"}"
    assert encode_position(Position([5, 7], 9, WatermarkState(3, [1, None], 4, [0, 2], True, 5), ["a", "b"])) == value


@pytest.mark.parametrize("value", [b"", b"[]", b'{"version": 1}', b'{"version": 2, "offsets": []}', b"\xff"])
def test_a_position_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(WireError, match=r"position(\.version)? must be"):
        decode_position(value)


def no_refusal(value: bytes, reason: str) -> None:
    raise AssertionError(reason)


@pytest.mark.parametrize("present", [[], [b"a"], [b"a", b"b"], [b"a", b"b", b"c"], [b"x", b"a", b"y", b"b"]])
def test_a_delivery_appends_missing_records_also_between_those_of_another_writer(world: World, present: list[bytes]) -> None:
    log = world.MemoryLog()
    log.create_topic("t")
    log.append("t", [b"a", b"old"], time_ms=1)
    log.append("t", present, time_ms=1)
    end = deliver(log, "t", 0, Outbox(2, 7, (b"a", b"b", b"c")), no_refusal)
    values = [record.value for record in log.read("t", 0, 2, 100)]
    assert [value for value in values if value in b"abc"] == [b"a", b"b", b"c"]
    assert end == 2 + len(values)
    assert deliver(log, "t", 0, Outbox(2, 7, (b"a", b"b", b"c")), no_refusal) == end
