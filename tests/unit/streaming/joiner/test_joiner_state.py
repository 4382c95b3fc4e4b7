"""What lies in Kv comes back as it was; what is not whole is refused; the outbox finds what the log already has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.clock import ManualClock
from monolith_py.data.events import Action
from monolith_py.errors import KvError, LogError, OffsetTrimmed, TopicMissing, WireError
from monolith_py.io.codec import encode_action
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_py.io.retrying import RETRY_S, RetryPolicy
from monolith_streaming.joiner.outbox import Outbox, decode_outbox, deliver, encode_outbox
from monolith_streaming.joiner.position import Position, decode_position, encode_position
from monolith_streaming.joiner.rules import LateAction, Request, SeenAction
from monolith_streaming.joiner.waiting import Waiting, decode_waiting, encode_waiting
from monolith_streaming.joiner.watermark import Reached

World = Any
int64 = st.integers(-(2**63), 2**63 - 1)
times = st.integers(1, 2**62)


@st.composite
def seen_actions(draw: st.DrawFn) -> SeenAction:
    action = Action("r", draw(int64), draw(st.text(min_size=1, max_size=5)), draw(times), draw(st.floats(-9, 9, width=32)))
    return SeenAction(action, draw(st.integers(0, 2**40)), encode_action(action))


@st.composite
def waitings(draw: st.DrawFn) -> Waiting:
    items = draw(st.lists(int64, max_size=4))
    labels = [draw(st.integers(0, 2**64 - 1)) for _ in items]
    statuses = [draw(st.integers(0, 3)) for _ in items]
    early = draw(st.lists(seen_actions(), max_size=3))
    late = [LateAction(draw(st.integers(0, 9)), seen) for seen in draw(st.lists(seen_actions(), max_size=3))]
    request = Request("r", draw(times), draw(times), items, labels, statuses, early, late)
    value = draw(st.binary(max_size=50))
    return Waiting(request, draw(st.integers(0, 2**40)), ImpressionView(value) if value else None)


def value_of(waiting: Waiting) -> bytes | None:
    return waiting.impression and waiting.impression.value


@given(waitings())
def test_a_waiting_request_comes_back_as_it_was(waiting: Waiting) -> None:
    back = decode_waiting("r", encode_waiting(waiting, keep_impression=True))
    assert (back.request, back.offset, value_of(back)) == (waiting.request, waiting.offset, value_of(waiting))
    assert decode_waiting("r", encode_waiting(waiting, keep_impression=False)).impression is None


@given(waitings(), st.integers(1, 1000))
def test_a_waiting_request_that_is_cut_is_refused(waiting: Waiting, num_bytes: int) -> None:
    value = encode_waiting(waiting, keep_impression=True)
    with pytest.raises(WireError, match="'r'"):
        decode_waiting("r", value[: max(0, len(value) - num_bytes)])


@given(st.integers(0, 2**60), st.lists(st.binary(max_size=20), max_size=5))
def test_an_outbox_comes_back_as_it_was_and_is_refused_where_it_is_cut(start: int, values: list[bytes]) -> None:
    outbox = Outbox(start, 5, tuple(values))
    encoded = encode_outbox(outbox)
    assert decode_outbox(encoded) == outbox
    if values:
        with pytest.raises(WireError, match="outbox"):
            decode_outbox(encoded[:-1])


def test_a_position_comes_back_as_it_was() -> None:
    position = Position([5, 7], 9, Reached(3, [1, None], 4, [0, 2]))
    assert decode_position(encode_position(position)) == position


@pytest.mark.parametrize("value", [b"", b"[]", b'{"version": 2}', b'{"version": 1, "offsets": []}', b"\xff"])
def test_a_position_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(WireError, match="position must be"):
        decode_position(value)


@pytest.mark.parametrize("present", [[], [b"a"], [b"a", b"b"], [b"a", b"b", b"c"], [b"x", b"a", b"y", b"b"]])
def test_a_delivery_appends_what_is_missing_also_between_another_writer_s_records(world: World, present: list[bytes]) -> None:
    log = world.MemoryLog()
    log.create_topic("t")
    log.append("t", [b"a", b"old"], time_ms=1)
    log.append("t", present, time_ms=1)
    end = deliver(log, "t", 0, Outbox(2, 7, (b"a", b"b", b"c")))
    values = [record.value for record in log.read("t", 0, 2, 100)]
    assert [value for value in values if value in b"abc"] == [b"a", b"b", b"c"]
    assert end == 2 + len(values)
    assert deliver(log, "t", 0, Outbox(2, 7, (b"a", b"b", b"c"))) == end


class Away:
    """An operation that fails `times` times, then returns 7."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left = error, times

    def __call__(self) -> int:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return 7


@pytest.mark.parametrize("error", [LogError("away"), KvError("away")])
def test_patience_tries_again_for_its_time_and_no_longer(error: Exception) -> None:
    clock = ManualClock()
    assert RetryPolicy(clock).run(Away(error, 5)) == 7
    began_s = clock.monotonic_s()
    with pytest.raises(type(error), match="away"):
        RetryPolicy(clock).run(Away(error, 1_000_000))
    assert RETRY_S - 3 < clock.monotonic_s() - began_s <= RETRY_S


@pytest.mark.parametrize("error", [TopicMissing("t"), OffsetTrimmed("t", 0, 1, 2), ValueError("wrong")])
def test_patience_does_not_wait_for_what_will_not_pass(error: Exception) -> None:
    clock = ManualClock()
    with pytest.raises(type(error)):
        RetryPolicy(clock).run(Away(error, 1))
    assert clock.monotonic_s() == 0


def test_patience_ends_when_the_process_is_to_stop() -> None:
    with pytest.raises(LogError):
        RetryPolicy(ManualClock(), should_stop=lambda: True).run(Away(LogError("away"), 1))
