"""Stored state is decoded unchanged, cut state is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.events import Action
from monolith_py.errors import WireError
from monolith_py.io.codec import encode_action
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_streaming.joiner.position import (
    OpenPlace,
    Position,
    Progress,
    decode_position,
    encode_position,
    progress_from_metadata,
    progress_to_metadata,
)
from monolith_streaming.joiner.request import LateAction, Request, SeenAction
from monolith_streaming.joiner.waiting import WaitingRequest
from monolith_streaming.joiner.watermark import WatermarkState
from tests.unit.streaming.joiner.waiting_form import decode_waiting, encode_waiting

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


REACHED = WatermarkState(3, [1, None], 4, [[5, 1], []])
POSITION = Position(
    Progress([5, 7], REACHED, 2, 1, OpenPlace(4, 3, 2, 1), ["i", "j"]), 9, 1_700_000_000_000, 6, 8, 3, "k", [2, 5], ["a", "b"]
)
PROGRESS = (
    '{"offsets":[5,7],"watermark":{"watermark_ms":3,"newest_ms":[1,null],"newest_at_ms":4,"recent_ms":[[5,1],[]]},'
    '"advanced_ms":2,"closed_ms":1,"open":[4,3,2,1],"topics":["i","j"]}'
)


def test_a_position_is_decoded_unchanged() -> None:
    assert decode_position(encode_position(POSITION)) == POSITION
    assert progress_from_metadata(progress_to_metadata(POSITION.progress)) == POSITION.progress


def test_the_stored_forms_of_a_position_are_pinned() -> None:
    assert progress_to_metadata(POSITION.progress) == {"joiner": PROGRESS}
    value = json.loads(encode_position(POSITION))
    fields = {"version": 5, "examples_end": 9, "series": 1_700_000_000_000, "step": 6, "epoch": 8, "commit": 3, "topic": "k"}
    assert value == {**fields, "blocks": [2, 5], "tasks": ["a", "b"], "progress": json.loads(PROGRESS)}


@pytest.mark.parametrize("value", [b"", b"[]", b'{"version": 2}', b'{"version": 4, "examples_end": 1}', b"\xff"])
def test_a_position_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(WireError, match=r"position(\.version)? must be"):
        decode_position(value)


@pytest.mark.parametrize("metadata", [{}, {"joiner": "{}"}, {"joiner": '{"offsets":[1,2],"open":[1]}'}])
def test_a_progress_of_another_form_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(WireError, match="progress must be"):
        progress_from_metadata(metadata)
