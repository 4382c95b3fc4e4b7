"""ExampleSource hands out every example once, in an order and in batches that depend only on the log.

Longer than 300 lines: the cases share their fixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.data.examples import ExampleBatch
from monolith_py.errors import RecordsDamaged, TopicMissing
from monolith_py.io import Log
from monolith_py.io.codec import decode_dead_letter, encode_examples
from monolith_py.io.log.dead_letters import DeadLetters
from monolith_streaming.trainer.source import ExampleSource
from monolith_streaming.trainer.step_order import SourcePlace

Examples = Callable[..., ExampleBatch]
MakeLog = Callable[..., Any]


def going() -> bool:
    return False


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def new_log(timed_log: Callable[[ManualClock], Any], clock: ManualClock) -> MakeLog:
    def make(partitions: int = 1) -> Any:
        log = timed_log(clock)
        log.create_topic("examples", partitions)
        log.create_topic("dead")
        return log

    return make


@pytest.fixture
def make_source(clock: ManualClock) -> Callable[..., ExampleSource]:
    def make(log: Log, positions: Mapping[int, tuple[int, int]] | None = None) -> ExampleSource:
        return ExampleSource(log, "examples", SourcePlace(positions or {}), DeadLetters(log, "dead", clock), clock)

    return make


def append(log: Log, *batches: ExampleBatch, partition: int = 0) -> None:
    for batch in batches:
        log.append("examples", [encode_examples(batch)], time_ms=int(batch.times_ms.max(initial=0)), partition=partition)


def items_of(source: ExampleSource, size: int, linger_s: float = 0.0) -> list[list[int]]:
    """Return the item ids of each batch up to the end of the log."""
    found = []
    while (batch := source.next_batch(size, linger_s, going)) is not None:
        found.append(batch.item_ids.tolist())
    return found


def letters(log: Log) -> list[tuple[str, int, int, bytes]]:
    found = (decode_dead_letter(record.value) for record in log.read("dead", 0, 0, 100))
    return [(letter.topic, letter.partition, letter.offset, letter.value) for letter in found]


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_source_without_linger_waits_at_the_end_of_the_log(
    new_log: MakeLog, make_source: Callable[..., ExampleSource], clock: ManualClock, partitions: int
) -> None:
    """An idle trainer with trainer.linger_s = 0 took a whole core."""
    source, before_s = make_source(new_log(partitions)), clock.monotonic_s()
    assert source.next_batch(8, 0.0, going) is None
    assert 0 < clock.monotonic_s() - before_s < 0.05


def test_batches_span_records_and_a_record_spans_batches(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log()
    append(log, make_examples(1, 2), make_examples(3), make_examples(4, 5, 6, 7, 8))
    source = make_source(log)
    assert source.positions == {0: (0, 0)}
    batch = source.next_batch(4, 0.0, going)
    assert batch is not None and batch.item_ids.tolist() == [1, 2, 3, 4]
    assert batch.features.sparse["item"].fids.tolist() == [1, 2, 3, 4]
    assert source.positions == {0: (2, 1)}
    assert items_of(source, 3) == [[5, 6, 7], [8]]
    assert source.positions == {0: (3, 0)}


def test_a_source_continues_from_any_position_without_gap_or_repeat(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log(partitions=2)
    for number in range(12):
        items = range(number * 10, number * 10 + 1 + number % 4)
        append(log, make_examples(*items, time_ms=1_000 + number), partition=number % 3 % 2)
    expected = items_of(make_source(log), 3)
    for num_batches in range(len(expected) + 1):
        first = make_source(log)
        for _ in range(num_batches):
            first.next_batch(3, 0.0, going)
        assert items_of(make_source(log, first.positions), 3) == expected[num_batches:]


def test_the_earliest_record_of_all_partitions_is_next_and_ties_go_to_the_lower_partition(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log(partitions=3)
    append(log, make_examples(1, time_ms=10), make_examples(2, time_ms=40), partition=2)
    append(log, make_examples(3, time_ms=20), make_examples(4, time_ms=40), partition=0)
    append(log, make_examples(5, time_ms=30), make_examples(6, time_ms=25), partition=1)
    assert items_of(make_source(log), 1) == [[1], [3], [5], [6], [4], [2]]


def test_no_partition_with_a_backlog_holds_back_another(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log(partitions=2)
    for number in range(1, 201):  # more than one read of the log
        append(log, make_examples(number, time_ms=number), partition=0)
        append(log, make_examples(1000 + number, time_ms=number), partition=1)
    batches = items_of(make_source(log), 10)
    assert all(sum(item < 1000 for item in batch) == 5 for batch in batches)


def test_a_record_that_cannot_be_parsed_becomes_a_dead_letter_and_the_next_is_read(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log(partitions=2)
    append(log, make_examples(1), partition=1)
    log.append("examples", [b"no examples"], time_ms=2_000, partition=1)
    append(log, make_examples(2), partition=1)
    source = make_source(log)
    assert items_of(source, 2) == [[1, 2]]
    assert letters(log) == [("examples", 1, 1, b"no examples")]
    assert source.positions == {0: (0, 0), 1: (3, 0)}


def test_a_record_without_examples_is_skipped(new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]) -> None:
    log = new_log()
    append(log, make_examples(), make_examples(1), make_examples())
    source = make_source(log)
    assert items_of(source, 4) == [[1]]
    assert source.positions == {0: (3, 0)}


@pytest.mark.parametrize("other", [{"tasks": ("click", "like")}, {"tasks": ("like",)}, {"dim": 3}])
def test_a_batch_ends_before_a_record_of_other_tasks_or_widths(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], other: dict[str, Any]
) -> None:
    log = new_log()
    append(log, make_examples(1), make_examples(2, 3, **other), make_examples(4), make_examples(5))
    assert items_of(make_source(log), 8) == [[1], [2, 3], [4, 5]]


def test_the_origin_of_a_row_is_its_record(new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]) -> None:
    log = new_log(partitions=2)
    append(log, make_examples(1, 2, time_ms=1), make_examples(3, 4, time_ms=3), partition=0)
    append(log, make_examples(5, time_ms=2), partition=1)
    source = make_source(log)
    source.next_batch(1, 0.0, going)
    batch = source.next_batch(8, 0.0, going)
    assert batch is not None and batch.item_ids.tolist() == [2, 5, 3, 4]
    assert [source.origin_of(row) for row in range(4)] == [(0, 0), (1, 0), (0, 1), (0, 1)]


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_batch_that_is_not_full_lingers_and_a_full_one_does_not(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], clock: ManualClock, partitions: int
) -> None:
    log = new_log(partitions)
    append(log, make_examples(1, 2, 3))
    source = make_source(log)
    assert len(source.next_batch(2, 5.0, going) or ()) == 2
    assert clock.monotonic_s() == 0.0
    assert len(source.next_batch(2, 5.0, going) or ()) == 1
    assert clock.monotonic_s() == pytest.approx(5.0)


@pytest.mark.parametrize("partitions", [1, 2])
def test_an_empty_log_gives_no_batch_after_the_linger(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], clock: ManualClock, partitions: int
) -> None:
    log = new_log(partitions)
    source = make_source(log)
    assert source.next_batch(2, 3.0, going) is None
    assert clock.monotonic_s() == pytest.approx(3.0)
    assert source.positions == dict.fromkeys(range(partitions), (0, 0))
    assert source.has_reached(source.ends())
    append(log, make_examples(1))
    assert len(source.next_batch(2, 3.0, going) or ()) == 1
    assert clock.monotonic_s() == pytest.approx(3.0), "after a pause the first examples do not wait"


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_record_appended_during_the_linger_fills_the_batch(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], clock: ManualClock, partitions: int
) -> None:
    log = new_log(partitions)
    append(log, make_examples(1))
    source = make_source(log)

    def append_late() -> bool:
        if log.end_offset("examples", 0) == 1:
            append(log, make_examples(2))
        return False

    batch = source.next_batch(2, 60.0, append_late)
    assert batch is not None and batch.item_ids.tolist() == [1, 2]
    assert clock.monotonic_s() < 60.0


def test_a_stop_ends_the_linger_with_a_smaller_batch(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], clock: ManualClock
) -> None:
    log = new_log()
    append(log, make_examples(1))
    batch = make_source(log).next_batch(2, 60.0, lambda: True)
    assert batch is not None and batch.item_ids.tolist() == [1]
    assert clock.monotonic_s() == 0.0


def test_the_ends_are_reached_when_the_last_row_before_them_is_handed_out(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log(partitions=2)
    append(log, make_examples(1, 2), partition=1)
    source = make_source(log)
    ends = source.ends()
    assert ends == {0: 0, 1: 1}
    append(log, make_examples(3), partition=1)
    source.next_batch(1, 0.0, going)
    assert not source.has_reached(ends)
    source.next_batch(1, 0.0, going)
    assert source.has_reached(ends) and not source.has_reached(source.ends())


def test_a_source_before_the_oldest_record_goes_on_there_and_counts_what_is_lost(
    make_log: Callable[..., Log], make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = make_log()
    log.create_topic("examples")
    log.create_topic("dead")
    append(log, make_examples(1, 2), make_examples(3), make_examples(4))
    log.trim("examples", 0, 1)
    assert items_of(make_source(log), 8) == [[3, 4]]
    before = REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": "examples"}) or 0.0
    assert items_of(make_source(log, {0: (0, 1)}), 8) == [[3, 4]]
    assert REGISTRY.get_sample_value("monolith_records_lost_total", {"topic": "examples"}) == before + 1


def test_a_damaged_record_is_passed_over(new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]) -> None:
    log = new_log()
    append(log, make_examples(1), make_examples(2), make_examples(3))
    read = log.read

    def read_damaged(topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> Any:
        if topic == "examples" and offset == 1:
            raise RecordsDamaged(topic, partition, 1, 2, "wrong checksum")
        return read(topic, partition, offset, 1, timeout_s)

    log.read = read_damaged
    assert items_of(make_source(log), 1) == [[1], [3]]
    log.read = read
    assert letters(log) == [("examples", 0, 1, b"")]


def test_a_partition_that_is_added_is_read(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], clock: ManualClock
) -> None:
    log = new_log()
    append(log, make_examples(1))
    source = make_source(log)
    assert items_of(source, 8) == [[1]]
    log.records["examples"].append([])
    append(log, make_examples(2), partition=1)
    clock.advance(61.0)
    assert items_of(source, 8) == [[2]]


def test_after_a_hole_in_the_offsets_the_next_record_is_read_from_its_first_row(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource]
) -> None:
    log = new_log()
    append(log, make_examples(1), make_examples(2, 3), make_examples(4))
    read, hole = log.read, 1
    log.read = lambda *given: [record for record in read(*given) if record.offset != hole]  # like Kafka's control records
    source = make_source(log, {0: (1, 1)})
    assert items_of(source, 8) == [[4]]


def test_a_missing_topic_is_named(timed_log: Callable[[ManualClock], Any], make_source: Callable[..., ExampleSource]) -> None:
    with pytest.raises(TopicMissing, match="'examples'"):
        make_source(timed_log(ManualClock()))


def test_markers_of_transactions_are_no_lag(
    new_log: MakeLog, make_examples: Examples, make_source: Callable[..., ExampleSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = new_log()
    append(log, make_examples(1), make_examples(2))
    source = make_source(log)
    end_of_records = type(log).end_offset
    monkeypatch.setattr(type(log), "end_offset", lambda *given: end_of_records(*given) + 1)
    assert source.lags() == {0: 3}
    assert items_of(source, 1) == [[1], [2]]
    assert source.positions == {0: (2, 0)}
    assert source.lags() == {0: 0}
    assert source.positions == {0: (3, 0)}
