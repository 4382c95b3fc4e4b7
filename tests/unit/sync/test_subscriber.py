"""The subscriber: every delta once, in order, and an error for every missing one."""

from __future__ import annotations

import pytest

from monolith_py.errors import DeltaGap, OffsetTrimmed, WireError
from monolith_py.sync import Delta, Parent, Subscriber, encode_delta, next_generation


def append(log, *numbers: tuple[int, int]) -> None:
    """Append deltas of these numbers; each generation descends from generation 1."""
    parents = [Parent(1, 0, 0) if seq == 0 and generation > 1 else None for generation, seq in numbers]
    deltas = [Delta(*number, 1, 1, parent=parent) for number, parent in zip(numbers, parents, strict=True)]
    log.append("updates", [encode_delta(delta) for delta in deltas], time_ms=1)


def read(subscriber: Subscriber) -> list[tuple[int, int]]:
    """Return (generation, seq) of the deltas of one read, all taken as applied."""
    return [(delta.generation, delta.seq) for delta in subscriber.read(0.0)]


@pytest.fixture
def make_subscriber(failing_log):
    def make(offset=0, next_delta=(1, 0)):
        return Subscriber(failing_log, "updates", offset=offset, next_delta=next_delta)

    return make


def test_deltas_are_read_in_order_and_the_next_one_moves_on(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1))
    subscriber = make_subscriber()
    assert read(subscriber) == [(1, 0), (1, 1)]
    assert (subscriber.offset, subscriber.next_delta) == (2, (1, 2))
    assert read(subscriber) == []


def test_a_delta_seen_before_is_skipped(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1), (1, 0), (1, 1), (1, 2))
    assert read(make_subscriber()) == [(1, 0), (1, 1), (1, 2)]


def test_a_subscriber_starts_where_its_checkpoint_ends(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1), (1, 2))
    assert read(make_subscriber(offset=1, next_delta=(1, 2))) == [(1, 2)]


def test_a_higher_generation_starts_at_seq_0(failing_log, make_subscriber):
    append(failing_log, (1, 0), (4, 0), (4, 1))
    assert read(make_subscriber()) == [(1, 0), (4, 0), (4, 1)]


def test_deltas_of_a_trainer_that_was_replaced_are_skipped(failing_log, make_subscriber):
    append(failing_log, (1, 0), (2, 0), (1, 1), (2, 1))
    assert read(make_subscriber()) == [(1, 0), (2, 0), (2, 1)]


def test_a_delta_whose_apply_raises_is_read_again(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1), (1, 2))
    subscriber, applied = make_subscriber(), []

    def follow(fails_at: int | None = None) -> None:
        for delta in subscriber.read(0.0):
            if delta.seq == fails_at:
                raise RuntimeError("as planned")
            applied.append(delta.seq)

    with pytest.raises(RuntimeError):
        follow(fails_at=1)
    assert (applied, subscriber.offset, subscriber.next_delta) == ([0], 1, (1, 1))
    follow()
    assert applied == [0, 1, 2]


def test_a_loop_that_is_left_early_reads_its_last_delta_again(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1))
    subscriber = make_subscriber()
    for delta in subscriber.read(0.0):
        assert delta.seq == 0
        break
    assert read(subscriber) == [(1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("numbers", "expected", "got"), [([(1, 0), (1, 2)], (1, 1), (1, 2)), ([(1, 0), (2, 1)], (2, 0), (2, 1)), ([(1, 1)], (1, 0), (1, 1))]
)
def test_a_missing_delta_is_a_gap(failing_log, make_subscriber, numbers, expected, got):
    append(failing_log, *numbers)
    with pytest.raises(DeltaGap) as caught:
        read(make_subscriber())
    assert (caught.value.expected, caught.value.got) == (expected, got)


def test_a_gap_leaves_the_deltas_before_it_applied(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 2))
    subscriber = make_subscriber()
    for _ in range(2):
        with pytest.raises(DeltaGap):
            read(subscriber)
        assert (subscriber.offset, subscriber.next_delta) == (1, (1, 1))


def test_a_record_that_is_no_delta_is_an_error_that_names_its_offset(failing_log, make_subscriber):
    append(failing_log, (1, 0))
    failing_log.append("updates", [b"\xff\xff"], time_ms=1)
    subscriber = make_subscriber()
    with pytest.raises(WireError, match=r"'updates'\[0\] offset 1: delta must be"):
        read(subscriber)
    assert subscriber.next_delta == (1, 1)


def test_trimmed_records_are_reported(failing_log, make_subscriber):
    append(failing_log, (1, 0), (1, 1))
    failing_log.trim("updates", 0, 1)
    with pytest.raises(OffsetTrimmed):
        read(make_subscriber())


def test_the_next_generation_is_above_the_checkpoint_and_the_log(failing_log):
    assert next_generation(failing_log, "updates", 0) == 1
    append(failing_log, (4, 0), (5, 0))
    assert next_generation(failing_log, "updates", 2) == 6
    assert next_generation(failing_log, "updates", 9) == 10


def test_the_next_generation_looks_past_records_that_are_no_deltas(failing_log):
    append(failing_log, (3, 0))
    failing_log.append("updates", [b"\xff"] * 5, time_ms=1)
    assert next_generation(failing_log, "updates", 0) == 4
