"""Dense updates of the publisher: the form of each; replicas end in the trainer's bits whatever the log refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.config import LogConfig, SyncConfig
from monolith_py.errors import DenseGap, LogError
from monolith_py.io.log.topics import Topics
from monolith_py.sync import (
    DenseForm,
    DenseRequester,
    DenseState,
    Generation,
    PublishedModel,
    Publisher,
    Subscriber,
    apply_update,
    decode_delta,
    next_generation,
)

START_MS = 1_000_000


class DenseReplica:
    """A replica without tables: applies dense updates that fit, asks for a full state after one that does not."""

    def __init__(self, held: DenseState, requester: DenseRequester) -> None:
        self.held, self.requester = held, requester
        self.forms: list[DenseForm | None] = []
        self.gaps = 0

    def apply(self, delta) -> None:
        if delta.table:
            return
        self.forms.append(delta.dense and delta.dense.form)
        if delta.dense is None:
            return
        try:
            self.held = apply_update(self.held, delta.dense)
        except DenseGap:
            self.gaps += 1
            self.requester.ask(delta.generation, delta.seq, self.held.fingerprint)
        else:
            self.requester.answered()


class Setting:
    """A publisher of dense parameters, one publication at a time, and a replica that follows it."""

    def __init__(self, log, dense, table, **config) -> None:
        self.log, self.dense, self.table = log, dense, table
        self.clock = ManualClock(START_MS)
        sync = SyncConfig(**({"sparse_interval_s": 1.0, "dense_interval_s": 1.0, "encoding": "fp32"} | config))
        topics, model = Topics.of(LogConfig(url="sqlite:///log")), PublishedModel({"a": table}, dense.tensors)
        generation = next_generation(log, "updates", 0)
        self.publisher = Publisher(log, topics, model, sync, self.clock, generation=Generation(generation, "trainer"))
        self.replica = DenseReplica(DenseState.of(dense.tensors()), DenseRequester(log, "dense_requests", "job", self.clock, 0.5))
        self.subscriber = Subscriber(log, "updates", offset=log.end_offset("updates"), next_delta=(generation, 0))

    def publish(self, *, learnt: bool = True) -> None:
        """Publish, let the replica follow, and advance the clock by the interval."""
        if learnt:
            self.publisher.note_step(1)
        self.publisher.maybe_publish(0)
        if self.publisher._append is not None:
            self.publisher._append.exception()
            self.clock.advance(0.001)
            self.publisher.maybe_publish(0)
        offset = -1
        while offset < self.subscriber.offset:
            offset = self.subscriber.offset
            for delta in self.subscriber.read(0.0):
                self.replica.apply(delta)
        self.clock.advance(1.0)


@pytest.fixture
def setting(failing_log, make_towers, make_table):
    made = Setting(failing_log, make_towers(density=0.5), make_table())
    yield made
    made.publisher.close()


def published_bytes(form: DenseForm) -> float:
    return REGISTRY.get_sample_value("monolith_dense_published_bytes_total", {"form": form.value}) or 0.0


def test_the_first_update_is_full_and_later_ones_hold_weights_and_swaps(setting, same_tensors):
    before = {form: published_bytes(form) for form in DenseForm}
    setting.publish()
    setting.dense.learn()
    setting.publish()
    setting.dense.swap(2, 2)
    setting.publish()
    setting.dense.learn()
    setting.publish()
    assert setting.replica.forms == [DenseForm.FULL, DenseForm.VALUES, DenseForm.SWAP, DenseForm.VALUES] and setting.replica.gaps == 0
    same_tensors(setting.replica.held.tensors, setting.dense.tensors())
    for form in DenseForm:
        deltas = [decode_delta(record.value) for record in setting.log.read("updates", 0, 0, 100)]
        expected = sum(delta.dense.num_bytes for delta in deltas if delta.dense and delta.dense.form is form)
        assert published_bytes(form) - before[form] == expected > 0


def test_a_replica_with_another_dense_state_asks_once_and_gets_a_full_update(setting, same_tensors):
    setting.publish()
    setting.dense.swap(1, 0)
    wrong = DenseState.of(setting.dense.tensors())
    setting.dense.swap(0, 1)
    setting.publish()
    setting.replica.held = wrong
    setting.publish()
    assert setting.replica.gaps == 1 and setting.replica.held is wrong
    setting.dense.learn()
    setting.publish()
    assert setting.replica.gaps == 1
    same_tensors(setting.replica.held.tensors, setting.dense.tensors())
    setting.publish()
    assert setting.replica.forms[-3:] == [DenseForm.VALUES, DenseForm.FULL, DenseForm.VALUES]


def test_a_request_is_answered_though_the_trainer_learnt_nothing(setting):
    setting.publish()
    setting.publish(learnt=False)
    setting.replica.requester.ask(1, 1, 0)
    setting.publish(learnt=False)
    setting.publish(learnt=False)
    assert setting.replica.forms == [DenseForm.FULL, None, DenseForm.FULL, None]


@pytest.mark.parametrize("dense_encoding", ["fp32", "fp16"])
def test_weights_have_the_dense_encoding_of_the_settings(failing_log, make_towers, make_table, dense_encoding):
    setting = Setting(failing_log, make_towers(), make_table(), dense_encoding=dense_encoding)
    setting.publish()
    setting.publish()
    setting.publisher.close()
    updates = [decode_delta(record.value).dense for record in failing_log.read("updates", 0, 0, 10)]
    assert [(update.form, update.encoding.value) for update in updates] == [
        (DenseForm.FULL, dense_encoding),
        (DenseForm.VALUES, dense_encoding),
    ]
    weights = setting.replica.held.tensors["head.weight"]
    assert weights.dtype == np.float32 and (weights == setting.dense.tensors()["head.weight"].numpy()).all()


def test_requests_are_read_only_when_dense_parameters_are_due(failing_log, make_towers, make_table):
    looks = []
    end_offset = failing_log.end_offset
    failing_log.end_offset = lambda topic, partition=0: (looks.append(topic), end_offset(topic, partition))[1]
    setting = Setting(failing_log, make_towers(), make_table(), dense_interval_s=5.0)
    looks.clear()
    for _ in range(20):
        setting.table.put(1, float(setting.clock.now_ms()))
        setting.publish()
    setting.publisher.close()
    assert looks == ["dense_requests"] * 4


def test_dense_parameters_are_published_while_requests_cannot_be_read(setting):
    setting.log.end_offset = lambda topic, partition=0: (_ for _ in ()).throw(LogError("away"))
    setting.publish()
    setting.publish()
    assert setting.replica.forms == [DenseForm.FULL, DenseForm.VALUES]


@pytest.mark.parametrize("written", [0.0, 1.0])
def test_a_refused_dense_update_keeps_its_bytes_and_the_next_builds_on_it(setting, same_tensors, written):
    setting.publish()
    setting.dense.swap(2, 2)
    setting.log.plans = [written]
    setting.publish()
    refused = setting.publisher._publication.values()
    setting.dense.swap(1, 3)
    setting.replica.requester.ask(1, 1, 0)  # a request that comes between changes nothing of the one that waits
    setting.publish()
    setting.publish()
    values = [record.value for record in setting.log.read("updates", 0, 0, 100)]
    assert [value for value in values if decode_delta(value).seq == 1] == refused * (1 + round(written))
    assert setting.replica.forms == [DenseForm.FULL, DenseForm.SWAP, DenseForm.FULL] and setting.replica.gaps == 0
    same_tensors(setting.replica.held.tensors, setting.dense.tensors())


operations = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.just(0), st.just(0)),
        st.tuples(st.just("swap"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.just(0), st.just(0)),
        st.tuples(st.just("refuse"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("lose"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(operations, st.integers(0, 1000))
def test_replicas_end_in_the_trainer_s_bits_whatever_is_refused_or_lost(
    failing_log, make_towers, make_table, same_tensors, operations, seed
):
    failing_log.plans.clear()
    setting = Setting(failing_log, make_towers(seed), make_table())
    for kind, first, second in operations:
        if kind == "learn":
            setting.dense.learn()
        elif kind == "swap":
            setting.dense.swap(first, second)
        elif kind == "refuse":
            failing_log.plans.append(first / 2)
        elif kind == "lose":
            setting.replica.held = DenseState.of(make_towers(seed + 1).tensors())
        else:
            setting.table.put(1, float(setting.clock.now_ms()))
            setting.publish()
    failing_log.plans.clear()
    for _ in range(3):  # a refused one, one that does not fit, the full one
        setting.publish()
    setting.publisher.close()
    same_tensors(setting.replica.held.tensors, setting.dense.tensors())
