"""The subscriber: every delta once, in order, and no hole unseen."""

from __future__ import annotations

import pytest

from monolith_py.errors import DeltaGap, OffsetTrimmed, WireError
from monolith_py.sync import Delta, Subscriber, encode_delta, next_generation


def append(log, *numbers: tuple[int, int]) -> None:
    log.append("updates", [encode_delta(Delta(generation, seq, 1, 1)) for generation, seq in numbers], time_ms=1)


def applied(sink) -> list[tuple[int, int]]:
    return [(delta.generation, delta.seq) for delta in sink.deltas]


@pytest.fixture
def make_subscriber(failing_log, sink):
    def make(offset=0, position=(1, 0)):
        return Subscriber(failing_log, "updates", sink, offset=offset, position=position)

    return make


def test_deltas_are_applied_in_order_and_the_position_moves(failing_log, make_subscriber, sink):
    append(failing_log, (1, 0), (1, 1))
    subscriber = make_subscriber()
    assert subscriber.poll(0.0) == 2
    assert applied(sink) == [(1, 0), (1, 1)]
    assert (subscriber.offset, subscriber.position) == (2, (1, 2))
    assert subscriber.poll(0.0) == 0


def test_a_delta_seen_before_is_skipped(failing_log, make_subscriber, sink):
    append(failing_log, (1, 0), (1, 1), (1, 0), (1, 1), (1, 2))
    assert make_subscriber().poll(0.0) == 3
    assert applied(sink) == [(1, 0), (1, 1), (1, 2)]


def test_a_subscriber_starts_where_its_checkpoint_stands(failing_log, make_subscriber, sink):
    append(failing_log, (1, 0), (1, 1), (1, 2))
    make_subscriber(offset=1, position=(1, 2)).poll(0.0)
    assert applied(sink) == [(1, 2)]


def test_a_higher_generation_starts_at_seq_0(failing_log, make_subscriber, sink):
    append(failing_log, (1, 0), (4, 0), (4, 1))
    make_subscriber().poll(0.0)
    assert applied(sink) == [(1, 0), (4, 0), (4, 1)]


def test_a_trainer_that_was_replaced_is_not_heard(failing_log, make_subscriber, sink):
    append(failing_log, (1, 0), (2, 0), (1, 1), (2, 1))
    make_subscriber().poll(0.0)
    assert applied(sink) == [(1, 0), (2, 0), (2, 1)]


@pytest.mark.parametrize(
    ("numbers", "expected", "got"), [([(1, 0), (1, 2)], (1, 1), (1, 2)), ([(1, 0), (2, 1)], (2, 0), (2, 1)), ([(1, 1)], (1, 0), (1, 1))]
)
def test_a_hole_is_a_gap(failing_log, make_subscriber, numbers, expected, got):
    append(failing_log, *numbers)
    with pytest.raises(DeltaGap) as caught:
        make_subscriber().poll(0.0)
    assert (caught.value.expected, caught.value.got) == (expected, got)


def test_a_record_that_is_no_delta_stops_it_and_names_the_offset(failing_log, make_subscriber, sink):
    append(failing_log, (1, 0))
    failing_log.append("updates", [b"\xff\xff"], time_ms=1)
    with pytest.raises(WireError, match=r"'updates'\[0\] offset 1: delta must be"):
        make_subscriber().poll(0.0)
    assert applied(sink) == [(1, 0)]


def test_trimmed_records_are_reported(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1))
    failing_log.trim("updates", 0, 1)
    with pytest.raises(OffsetTrimmed):
        make_subscriber().poll(0.0)


def test_the_next_generation_is_above_the_checkpoint_and_the_log(failing_log):
    assert next_generation(failing_log, "updates", 0) == 1
    append(failing_log, (4, 0), (5, 0))
    assert next_generation(failing_log, "updates", 2) == 6
    assert next_generation(failing_log, "updates", 9) == 10


def test_the_next_generation_looks_past_records_that_are_no_deltas(failing_log):
    append(failing_log, (3, 0))
    failing_log.append("updates", [b"\xff"] * 5, time_ms=1)
    assert next_generation(failing_log, "updates", 0) == 4
