"""The publisher: its deltas and their times; a log that refuses loses no row, doubles none and keeps the order.

Longer than 300 lines: the state machine of random failures shares the doubles of the cases before it.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith_py.clock import ManualClock
from monolith_py.config import LogConfig, SyncConfig
from monolith_py.errors import LogError, ModelNotFinite
from monolith_py.io.log.topics import Topics
from monolith_py.sync import (
    DenseState,
    Generation,
    PublishedModel,
    Publisher,
    RowEncoding,
    StepMark,
    Subscriber,
    apply_update,
    decode_delta,
    next_generation,
    pack_rows,
    unpack_rows,
)
from monolith_py.sync.publication import StepMarks
from monolith_py.table import EmbeddingTable, Sgd, Slice

START_MS = 1_000_000


class Setting:
    """A publisher over dict tables, and a subscriber that follows it."""

    def __init__(self, log, tables, replica, **config) -> None:
        self.log, self.tables, self.replica = log, tables, replica
        self.clock = ManualClock(START_MS)
        self.bias = torch.zeros(2)
        defaults = {"sparse_interval_s": 1.0, "dense_interval_s": 5.0, "encoding": "fp32", "rows_per_delta": 3}
        settings, topics = SyncConfig(**(defaults | config)), Topics.of(LogConfig(url="sqlite:///log"))
        model = PublishedModel(tables, lambda: {"bias": self.bias})
        generation = next_generation(log, "updates", 0)
        self.publisher = Publisher(log, topics, model, settings, self.clock, generation=Generation(generation, "trainer"))
        self.subscriber = Subscriber(log, "updates", offset=log.end_offset("updates"), next_delta=(generation, 0))

    def step(self, num_rows: int = 1, advance_s: float = 0.0) -> None:
        self.publisher.note_step(num_rows)
        self.clock.advance(advance_s)

    def publish(self) -> None:
        """Start what is due and wait for the log, as time between two steps does."""
        self.publisher.maybe_publish(watermark_ms=7)
        if self.publisher._append is not None:
            self.publisher._append.exception()
            self.clock.advance(0.001)
            self.publisher.maybe_publish(watermark_ms=7)

    def records(self):
        return [decode_delta(record.value) for record in self.log.read("updates", 0, 0, 1000)]

    def follow(self) -> None:
        while self.subscriber.offset < self.log.end_offset("updates"):
            for delta in self.subscriber.read(0.0):
                self.replica.apply(delta)


def bias_of(delta) -> np.ndarray:
    """Return the bias in the dense update of a delta."""
    return apply_update(DenseState.of({"bias": torch.zeros(2)}), delta.dense).tensors["bias"]


@pytest.fixture
def make_setting(failing_log, make_table, replica):
    made = []

    def make(names=("a", "b"), **config):
        made.append(Setting(failing_log, {name: make_table() for name in names}, replica, **config))
        return made[-1]

    yield make
    for setting in made:
        setting.publisher.close()


def test_the_dense_state_is_the_first_delta_of_a_generation(make_setting):
    setting = make_setting()
    setting.tables["a"].put(1, 0.5)
    setting.publish()
    first, second = setting.records()
    assert (first.seq, first.table) == (0, "") and not bias_of(first).any()
    assert (second.seq, second.table, second.fids.tolist()) == (1, "a", [1])


def test_rows_are_published_every_sparse_interval_and_dense_parameters_every_dense_interval(make_setting):
    setting = make_setting()
    for _ in range(60):
        setting.tables["a"].put(1, float(setting.clock.now_ms()))
        setting.step(advance_s=0.25)
        setting.publish()
    deltas = setting.records()
    assert sum(bool(delta.table) for delta in deltas) in (14, 15)
    assert sum(bool(delta.dense) for delta in deltas) == 3


def test_the_first_change_after_a_pause_is_published_at_once_and_the_next_one_after_the_interval(make_setting):
    setting = make_setting(dense_interval_s=3_600.0)
    setting.publish()
    for _ in range(7):
        setting.clock.advance(0.3)
        setting.publish()
    setting.tables["a"].put(1, 1.0)
    setting.publish()
    assert [delta.table for delta in setting.records()] == ["", "a"]
    setting.tables["a"].put(2, 1.0)
    setting.clock.advance(0.9)
    setting.publish()
    assert len(setting.records()) == 2
    setting.clock.advance(0.2)
    setting.publish()
    assert [delta.fids.tolist() for delta in setting.records()[1:]] == [[1], [2]]


def test_one_seq_runs_over_all_tables_and_long_drains_are_cut(make_setting):
    setting = make_setting()
    for fid in range(7):
        setting.tables["a"].put(fid, fid)
    setting.tables["b"].put(9, 9.0)
    setting.publish()
    deltas = setting.records()
    assert [(delta.seq, delta.table, len(delta.fids)) for delta in deltas] == [
        (0, "", 0),
        (1, "a", 3),
        (2, "a", 3),
        (3, "a", 1),
        (4, "b", 1),
    ]
    assert setting.publisher.next_delta == (1, 5)
    assert {delta.watermark_ms for delta in deltas} == {7}


def test_the_last_delta_of_a_publication_carries_the_marks_of_its_steps(make_setting):
    setting = make_setting()
    for fid in range(4):
        setting.tables["a"].put(fid, 1.0)
    setting.step(num_rows=3, advance_s=0.01)
    setting.step(num_rows=1, advance_s=0.01)
    setting.publish()
    *others, last = setting.records()
    assert last.steps == (StepMark(START_MS, 3), StepMark(START_MS + 10, 1))
    assert not any(delta.steps for delta in others)


def test_without_changes_there_is_an_empty_delta_every_dense_interval_only(make_setting):
    setting = make_setting()
    for _ in range(44):
        setting.publish()
        setting.clock.advance(0.25)
    kinds = [(delta.table, bool(delta.dense)) for delta in setting.records()]
    assert kinds == [("", True), ("", False), ("", False)]


def test_a_trainer_without_changes_shows_every_5_seconds_that_it_runs(make_setting):
    setting = make_setting(dense_interval_s=3_600.0)
    for _ in range(44):
        setting.publish()
        setting.clock.advance(0.25)
    deltas = setting.records()
    assert [(delta.table, bool(delta.dense)) for delta in deltas] == [("", True), ("", False), ("", False)]
    times_s = [round((delta.published_ms - START_MS) / 1000, 1) for delta in deltas]  # a publication takes a millisecond
    assert times_s == [0.0, 5.0, 10.0]
    assert all(delta.digest is not None for delta in deltas)
    setting.tables["a"].put(1, 1.0)
    setting.publish()
    setting.clock.advance(4.75)
    setting.publish()
    assert [delta.table for delta in setting.records()[3:]] == ["a"]


def test_the_training_thread_does_not_wait_for_the_log(make_setting):
    setting = make_setting()
    gate = threading.Event()
    append = setting.log.append

    def slow_append(*args, **kwargs):
        gate.wait()
        return append(*args, **kwargs)

    setting.log.append = slow_append
    for fid in range(5):
        setting.tables["a"].put(fid, 1.0)
        setting.publisher.maybe_publish(0)
        setting.clock.advance(1.0)
    assert setting.log.end_offset("updates") == 0 and setting.tables["a"].unacknowledged
    gate.set()
    setting.publisher.flush(0)
    setting.follow()
    assert sorted(setting.replica.rows["a"]) == [0, 1, 2, 3, 4]


def test_rows_are_acknowledged_only_when_the_log_has_them(make_setting):
    setting = make_setting()
    setting.log.plans = [0.0]
    setting.tables["a"].put(1, 1.0)
    setting.publish()
    assert setting.tables["a"].unacknowledged == {1: 1}
    setting.clock.advance(1.0)
    setting.publish()
    assert setting.tables["a"].unacknowledged == {}


@pytest.mark.parametrize("written", [0.0, 0.5, 1.0])
def test_a_refused_publication_is_appended_again_unchanged_before_the_next(make_setting, written):
    setting = make_setting()
    for fid in range(4):
        setting.tables["a"].put(fid, 1.0)
    setting.log.plans = [written]
    setting.publish()
    setting.tables["a"].put(1, 2.0)
    setting.tables["a"].evict(2)
    setting.clock.advance(1.0)
    setting.publish()
    setting.clock.advance(1.0)
    setting.publish()
    setting.follow()
    assert [delta.seq for delta in setting.replica.deltas] == list(range(len(setting.replica.deltas)))
    assert {fid: row[0] for fid, row in setting.replica.rows["a"].items()} == {0: 1.0, 1: 2.0, 3: 1.0}


def test_flush_publishes_pending_rows_and_the_dense_parameters_and_returns_the_end(make_setting):
    setting = make_setting()
    setting.publish()
    setting.tables["b"].put(3, 1.0)
    setting.bias = torch.ones(2)
    end = setting.publisher.flush(9)
    assert end == setting.log.end_offset("updates") == 3
    _, dense, rows = setting.records()
    assert (bias_of(dense) == 1).all() and rows.fids.tolist() == [3]
    assert setting.publisher.next_delta == (1, 3)


def test_flush_raises_when_the_log_refuses_and_the_next_flush_publishes_everything(make_setting):
    setting = make_setting()
    setting.tables["a"].put(1, 1.0)
    setting.log.plans = [0.5, 0.0]
    for _ in range(2):
        with pytest.raises(LogError):
            setting.publisher.flush(0)
    end = setting.publisher.flush(0)
    assert end == setting.log.end_offset("updates")
    setting.follow()
    assert list(setting.replica.rows["a"]) == [1]
    assert setting.subscriber.next_delta == setting.publisher.next_delta


def test_a_fid_evicted_and_inserted_again_keeps_its_row(make_setting):
    setting = make_setting(rows_per_delta=1)
    setting.tables["a"].put(5, 1.0)
    setting.publisher.flush(0)
    setting.tables["a"].evict(5)
    setting.tables["a"].put(5, 2.0)
    setting.publisher.flush(0)
    setting.follow()
    assert setting.replica.rows["a"][5][0] == 2.0


def test_a_weight_that_is_not_finite_stops_the_trainer(make_setting):
    setting = make_setting()
    setting.tables["a"].put(1, np.nan)
    with pytest.raises(ModelNotFinite, match="table 'a': weights must be finite"):
        setting.publisher.flush(0)


@pytest.fixture
def make_core_setting(failing_log, replica):
    """Return a function that makes a publisher over one genuine table whose rows are packed in the encoding."""
    made = []

    def make(encoding: str):
        table = EmbeddingTable(8, slices=[Slice("weights", 8, Sgd(lr=1.0), "normal", 1.0, encoding)])
        made.append(Setting(failing_log, {"a": table}, replica, encoding=encoding))
        return made[-1]

    yield make
    for setting in made:
        setting.publisher.close()


@pytest.mark.parametrize("encoding", RowEncoding)
def test_rows_reach_the_subscriber_as_the_core_packed_them(make_core_setting, encoding):
    setting = make_core_setting(encoding.value)
    table = setting.tables["a"]
    table.find_or_insert(np.arange(10), now_s=0)
    setting.publisher.flush(0)
    table.update(table.find(np.arange(4)), np.ones((4, 8), np.float32))
    setting.publisher.flush(0)
    setting.follow()
    expected = unpack_rows(pack_rows(table.gather(table.find(np.arange(10))), encoding), 8, encoding)
    np.testing.assert_array_equal([setting.replica.rows["a"][fid] for fid in range(10)], expected)


def test_a_refused_publication_keeps_its_bytes_while_the_rows_go_on_changing(make_core_setting):
    setting = make_core_setting("int8")
    table = setting.tables["a"]
    table.find_or_insert([1, 2], now_s=0)
    setting.log.plans = [1.0]  # refused, and written all the same
    with pytest.raises(LogError):
        setting.publisher.flush(0)
    table.update(table.find([1, 2]), np.ones((2, 8), np.float32))
    setting.publisher.flush(0)
    values = [record.value for record in setting.log.read("updates", 0, 0, 100)]
    assert values[0:2] == values[2:4] and len(values) == 6
    setting.follow()
    assert [delta.seq for delta in setting.replica.deltas] == [0, 1, 2, 3]


@pytest.mark.parametrize("encoding", RowEncoding)
def test_a_weight_that_overflowed_in_the_table_stops_the_trainer(make_core_setting, encoding):
    setting = make_core_setting(encoding.value)
    table = setting.tables["a"]
    rows = table.find_or_insert([1], now_s=0)
    table.set_lr(3e38)
    table.update(rows, np.full((1, 8), 2.0**40, np.float32))
    with pytest.raises(ModelNotFinite, match="table 'a': weights must be finite, got NaN or Inf in row 0 of 1"):
        setting.publisher.flush(0)


@pytest.mark.parametrize("encodings", [["fp16", "int8"], ["int8", "int8"], ["int4", "int4"]])
def test_a_table_whose_rows_have_no_single_encoding_is_refused(failing_log, replica, encodings):
    slices = [Slice(f"s{index}", 4, Sgd(), encoding=encoding) for index, encoding in enumerate(encodings)]
    table = EmbeddingTable(4 * len(slices), slices=slices)
    with pytest.raises(ValueError, match=r"table 'a' must pack whole rows in one encoding, got slices of several, or of int8 or int4"):
        Setting(failing_log, {"a": table}, replica, encoding="int8")


def test_each_table_has_its_own_encoding_and_the_digest_names_those_that_differ(failing_log, replica):
    encodings = {"a": "int4", "b": "fp16", "c": "int8"}
    tables = {name: EmbeddingTable(8, slices=[Slice("w", 8, Sgd(), "normal", 1.0, one)]) for name, one in encodings.items()}
    for table in tables.values():
        table.find_or_insert(np.arange(3), now_s=0)
    setting = Setting(failing_log, tables, replica, encoding="fp16")
    setting.publisher.flush(0)
    deltas = setting.records()
    setting.publisher.close()
    assert {delta.table: delta.encoding.value for delta in deltas if delta.table} == encodings
    assert {delta.table: delta.rows.shape[1] for delta in deltas if delta.table} == {"a": 8, "b": 16, "c": 12}
    digest = deltas[-1].digest
    assert (digest.encoding, digest.encodings) == (RowEncoding.FP16, {"a": RowEncoding.INT4, "c": RowEncoding.INT8})
    assert {name: digest.encoding_of(name).value for name in tables} == encodings


def test_too_many_marks_are_merged_at_the_older_time():
    marks = StepMarks(max_marks=4)
    for time_ms in range(1, 6):
        marks.add(time_ms, 1)
    assert marks.take() == (StepMark(1, 2), StepMark(3, 2), StepMark(5, 1))


def test_a_merged_mark_has_the_older_event_that_is_known():
    marks = StepMarks(max_marks=4)
    for time_ms, event_ms in enumerate((90, 80, 0, 70, 0), start=1):
        marks.add(time_ms, 1, event_ms)
    assert marks.take() == (StepMark(1, 2, 80), StepMark(3, 2, 70), StepMark(5, 1, 0))
    marks.add(1, 1, 90)
    marks.add(1, 2, 95)
    assert marks.take() == (StepMark(1, 3, 90),)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 100)),
        st.tuples(st.just("evict"), st.sampled_from("ab"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("publish"), st.just(""), st.just(0), st.just(0)),
        st.tuples(st.just("refuse"), st.just(""), st.sampled_from([0, 1, 2]), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps)
def test_the_replica_ends_equal_to_the_tables_whatever_the_log_refuses(tmp_path_factory, make_table, replica, failing_log, operations):
    topic_log = failing_log
    offset = topic_log.end_offset("updates")
    tables = {"a": make_table(), "b": make_table()}
    replica.rows.clear()
    setting = Setting(topic_log, tables, replica)
    setting.subscriber = Subscriber(topic_log, "updates", offset=offset, next_delta=(0, 0))
    for kind, table, number, value in operations:
        if kind == "put":
            tables[table].put(number, value)
        elif kind == "evict":
            tables[table].evict(number)
        elif kind == "refuse":
            topic_log.plans.append(number / 2)
        else:
            setting.clock.advance(1.0)
            setting.publish()
    topic_log.plans.clear()
    setting.publisher.flush(0)
    setting.publisher.close()
    setting.follow()
    for name, table in tables.items():
        assert {fid: row.tolist() for fid, row in replica.rows.get(name, {}).items()} == {
            fid: row.tolist() for fid, row in table.rows.items()
        }
