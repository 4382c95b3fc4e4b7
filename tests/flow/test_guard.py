"""Guard: a publication that makes the model worse never reaches a guarded replica; a good one does, and the way on is found again.

Longer than 300 lines: all cases share one fixture, and run with and without markers of transactions in the log.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.data.schema import Schema
from monolith_py.data.served import ServedModel, ServedScores
from monolith_py.io import Log, Record
from monolith_py.io.codec import encode_examples
from monolith_py.model.batch import make_batch
from monolith_py.sync import Parent
from monolith_py.sync.verdicts import Verdict, decode_verdict, encode_verdict, newest_verdict
from monolith_serving.guard.guard import Guard
from monolith_serving.replica.replica import Replica
from tests.flow.conftest import RefusingLog

CPU = torch.device("cpu")
SEEDS = range(1, 5)
MARKER = b"end of a transaction"


class MarkedLog:
    """A log with a marker after each append of a writer, which takes an offset and is never read: as Kafka's transactions have."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def writer(self, *place: Any) -> MarkedWriter:
        return MarkedWriter(self._log.writer(*place))

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        while records := self._log.read(topic, partition, offset, max_records, timeout_s):
            if found := [record for record in records if record.value != MARKER]:
                return found
            offset = records[-1].offset + 1
        return []


class MarkedWriter:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def append(self, values: list[bytes], *, time_ms: int | list[int]) -> int:
        self._writer.append(values, time_ms=time_ms)
        return int(self._writer.append([MARKER], time_ms=0))


def examples_of(schema: Schema, seed: int) -> ExampleBatch:
    """64 examples; the user tells whether both labels are 1."""
    generator = np.random.default_rng(seed)
    users, ones = generator.integers(0, 40, 64), np.ones(64, np.int32)
    sparse = {"user_id": SparseColumn(users, ones), "item_id": SparseColumn(generator.integers(0, 40, 64), ones)}
    labels = {task: (generator.random(64) < np.where(users < 12, 0.8, 0.1)).astype(np.float32) for task in schema.tasks}
    times_ms, ids = np.full(64, 1000), tuple(f"{seed}-{row}" for row in range(64))
    features = FeatureColumns(64, sparse, {"age": np.zeros((64, 1), np.float32)})
    return ExampleBatch(ids, np.arange(64), times_ms, np.zeros(64, np.uint8), np.ones(64, np.float32), labels, features)


class Guarded:
    """A trainer, its guard and a replica behind it, each moved by hand."""

    def __init__(self, trainer, clock) -> None:
        self.trainer, self.clock, self.log = trainer, clock, trainer.log
        document = trainer.job.model_dump()
        serving = {**document["serving"], "freshness_log": None, "guarded": True, "guard_silence_s": 30.0}
        guard = {**document["guard"], "examples": 512, "min_positives": 20}
        self.job = JobConfig.model_validate(document | {"serving": serving, "guard": guard})
        self.replica = Replica(self.job, self.log, CPU, clock)
        self.guard = self.new_guard()
        self.probe = make_batch(examples_of(trainer.schema, 3).features, trainer.schema)

    def new_guard(self, **options: int) -> Guard:
        return Guard(self.job, self.log, CPU, self.clock, **options)

    def serve_and_label(self) -> None:
        """Append the examples that the trainer learns, as served by its present state."""
        for seed in SEEDS:
            examples = examples_of(self.trainer.schema, seed)
            scores = self.trainer.probabilities(make_batch(examples.features, self.trainer.schema)).astype(np.float32)
            by_task = {task: scores[:, place] for place, task in enumerate(self.trainer.schema.tasks)}
            served = ServedScores(by_task, (ServedModel("live", "1.1"),), np.zeros(len(examples), np.int32))
            self.log.append("examples", [encode_examples(replace(examples, served=served))], time_ms=1000)

    def learn(self, times: int = 1) -> None:
        for _ in range(times):
            for seed in SEEDS:
                self.trainer.trainer.step(examples_of(self.trainer.schema, seed))
                self.trainer.publisher.note_step(self.trainer.bags.rows_touched)

    def poison(self) -> None:
        """Learn flipped labels, as of an app that has mixed them up."""
        for _ in range(6):
            for seed in SEEDS:
                examples = examples_of(self.trainer.schema, seed)
                flipped = replace(examples, labels={task: 1 - values for task, values in examples.labels.items()})
                self.trainer.trainer.step(flipped)
                self.trainer.publisher.note_step(self.trainer.bags.rows_touched)

    def publish(self) -> None:
        self.trainer.publish()
        self.move(self.guard.replica)
        self.move(self.replica)

    def move(self, replica: Replica) -> None:
        for _ in range(6):
            if replica._subscriber is None:
                replica.load_newest()
            else:
                replica.apply_updates(0.0)

    def served(self) -> np.ndarray:
        return self.replica.state.predict(self.probe)

    def assert_parity(self) -> None:
        np.testing.assert_allclose(self.served(), self.trainer.probabilities(self.probe), rtol=0, atol=1e-5)


@pytest.fixture(params=[False, True], ids=["", "marked"])
def guarded(request, make_trainer, clock):
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batches: more threads only spin
    trainer = make_trainer()
    if request.param:
        trainer.log = MarkedLog(trainer.log)
        trainer.publisher = trainer.new_publisher(1)
    one = Guarded(trainer, clock)
    one.learn(6)
    one.trainer.publish()
    one.trainer.checkpoint()
    one.serve_and_label()
    one.move(one.guard.replica)
    one.move(one.replica)
    one.learn()
    one.publish()
    one.assert_parity()
    yield one
    one.replica.close()
    one.guard.replica.close()
    torch.set_num_threads(num_threads)


def newest(guarded: Guarded) -> Verdict:
    found = newest_verdict(guarded.log, "verdicts")
    assert found is not None
    return found


def test_good_updates_reach_a_guarded_replica(guarded) -> None:
    for _ in range(3):
        guarded.learn()
        guarded.publish()
        guarded.assert_parity()
    verdict = newest(guarded)
    assert not verdict.held and not guarded.log.read("updates", 0, verdict.good_until, 1)


def test_a_replica_waits_for_the_verdict(guarded) -> None:
    before = guarded.served()
    guarded.learn()
    guarded.trainer.publish()
    guarded.move(guarded.replica)
    np.testing.assert_array_equal(guarded.served(), before)
    guarded.move(guarded.guard.replica)
    guarded.move(guarded.replica)
    guarded.assert_parity()


@pytest.mark.parametrize("kind", ["labels", "weights"])
def test_a_poisoned_publication_is_held_and_the_last_good_version_serves(guarded, kind: str) -> None:
    before, version = guarded.served(), guarded.replica.state.version
    if kind == "labels":
        guarded.poison()
    else:
        with torch.no_grad():
            for parameter in guarded.trainer.trainer.model.parameters():
                parameter.mul_(100)
        guarded.learn()
    for _ in range(3):
        guarded.publish()
        guarded.poison()
    np.testing.assert_array_equal(guarded.served(), before)
    assert guarded.replica.state.version == version and guarded.replica.is_held
    verdict = newest(guarded)
    assert verdict.held and "NE is" in verdict.reason


def test_a_model_that_heals_itself_reaches_a_replica_by_a_checkpoint(guarded) -> None:
    """Within one generation the held deltas cannot be left out: their fids are needed, their values are not."""
    guarded.poison()
    guarded.publish()
    before = guarded.served()
    guarded.learn(40)
    guarded.publish()
    assert not newest(guarded).held
    np.testing.assert_array_equal(guarded.served(), before)  # no checkpoint yet
    guarded.trainer.checkpoint()
    guarded.publish()
    guarded.move(guarded.replica)
    guarded.assert_parity()


def test_a_replica_that_starts_during_a_hold_takes_no_poisoned_checkpoint(guarded) -> None:
    guarded.trainer.checkpoint()
    guarded.publish()
    good = guarded.served()
    guarded.poison()
    guarded.trainer.checkpoint()
    guarded.publish()
    late = Replica(guarded.job, guarded.log, CPU, guarded.clock)
    guarded.move(late)
    np.testing.assert_allclose(late.state.predict(guarded.probe), good, atol=1e-6)
    late.close()


def test_a_guard_that_restarts_during_a_hold_goes_on_holding(guarded) -> None:
    guarded.poison()
    guarded.publish()
    before = guarded.served()
    for seed in SEEDS:  # what is wrong with the labels is in the newest examples, too
        examples = examples_of(guarded.trainer.schema, seed)
        flipped = replace(examples, labels={task: 1 - values for task, values in examples.labels.items()})
        guarded.log.append("examples", [encode_examples(flipped)], time_ms=2000)
    guarded.guard = guarded.new_guard()
    guarded.poison()
    guarded.publish()
    assert newest(guarded).held
    np.testing.assert_array_equal(guarded.served(), before)
    guarded.guard = guarded.new_guard(accept=newest(guarded).good_until)
    guarded.poison()
    guarded.publish()
    guarded.publish()
    assert not newest(guarded).held


def of_another_arm(guarded) -> JobConfig:
    """A job to which the served scores in the log say nothing."""
    return guarded.job.model_copy(update={"serving": guarded.job.serving.model_copy(update={"arm": "other"})})


def test_a_guard_that_restarts_during_a_hold_takes_the_last_good_checkpoint_as_reference(guarded) -> None:
    guarded.job = of_another_arm(guarded)
    guarded.trainer.checkpoint()
    guarded.guard = guarded.new_guard()
    guarded.learn()
    guarded.publish()
    guarded.poison()
    guarded.publish()
    assert newest(guarded).held
    guarded.guard = guarded.new_guard()
    for _ in range(2):
        guarded.poison()
        guarded.publish()
        assert newest(guarded).held
    guarded.learn(40)
    guarded.publish()
    assert not newest(guarded).held


def test_after_an_acceptance_the_examples_of_before_say_nothing(guarded) -> None:
    guarded.poison()
    guarded.publish()
    assert newest(guarded).held
    guarded.guard = guarded.new_guard(accept=newest(guarded).good_until)
    for _ in range(4):
        guarded.poison()
        guarded.publish()
        assert not newest(guarded).held
    guarded.learn()
    guarded.publish()
    guarded.assert_parity()


def test_an_acceptance_left_in_the_arguments_ends_no_later_hold(guarded, caplog) -> None:
    guarded.learn()
    guarded.publish()
    accepted = newest(guarded).good_until
    guarded.guard = guarded.new_guard(accept=accepted)  # nothing is held
    assert f"--accept {accepted} ends no hold: updates are held at no offset" in caplog.text
    guarded.learn()
    guarded.publish()
    guarded.poison()
    guarded.publish()
    held = newest(guarded)
    assert held.held and held.good_until > accepted
    guarded.guard = guarded.new_guard(accept=accepted)
    guarded.poison()
    guarded.publish()
    assert newest(guarded).held
    assert f"--accept {accepted} ends no hold: updates are held from offset {held.good_until} on" in caplog.text


def test_a_guard_that_restarts_after_an_acceptance_knows_of_it(guarded) -> None:
    guarded.poison()
    guarded.publish()
    guarded.guard = guarded.new_guard(accept=newest(guarded).good_until)
    guarded.poison()
    guarded.publish()
    assert not newest(guarded).held
    guarded.guard = guarded.new_guard()
    for _ in range(2):
        guarded.poison()
        guarded.publish()
        assert not newest(guarded).held


def test_a_version_that_cannot_be_judged_ends_no_hold(guarded) -> None:
    guarded.poison()
    guarded.publish()
    reason = newest(guarded).reason
    guarded.job = guarded.job.model_copy(update={"guard": guarded.job.guard.model_copy(update={"min_positives": 100_000})})
    guarded.guard = guarded.new_guard()
    guarded.poison()
    guarded.publish()
    assert newest(guarded).held and newest(guarded).reason == reason


def test_a_publication_is_never_the_reference_of_an_example(guarded) -> None:
    guarded.job = of_another_arm(guarded)
    guarded.guard = guarded.new_guard()
    guarded.move(guarded.guard.replica)
    guarded.learn()
    guarded.publish()
    examples = examples_of(guarded.trainer.schema, 9)
    expected = guarded.guard.replica.state.predict(make_batch(examples.features, guarded.trainer.schema))
    guarded.log.append("examples", [encode_examples(examples)], time_ms=1000)
    guarded.poison()
    guarded.publish()
    scored = guarded.guard._examples.scored()
    assert newest(guarded).held and scored is not None
    np.testing.assert_allclose(scored.reference[-64:], expected, rtol=0, atol=1e-6)


def test_a_silent_guard_is_passed_by_and_a_hold_is_not(guarded) -> None:
    guarded.learn()
    guarded.trainer.publish()
    guarded.move(guarded.replica)
    guarded.clock.advance(29.0)
    before = guarded.served()
    guarded.move(guarded.replica)
    np.testing.assert_array_equal(guarded.served(), before)
    guarded.clock.advance(2.0)
    guarded.move(guarded.replica)
    guarded.assert_parity()
    guarded.move(guarded.guard.replica)  # it speaks again
    guarded.poison()
    guarded.publish()
    held = guarded.served()
    guarded.clock.advance(1000.0)
    guarded.move(guarded.replica)
    np.testing.assert_array_equal(guarded.served(), held)


def test_without_updates_a_guard_is_not_silent(guarded) -> None:
    for _ in range(2):
        guarded.clock.advance(1000.0)
        guarded.move(guarded.replica)
    before = guarded.served()
    guarded.learn()
    guarded.trainer.publish()
    guarded.move(guarded.replica)
    np.testing.assert_array_equal(guarded.served(), before)


def test_the_newest_publication_is_judged_by_a_guard_that_starts(guarded) -> None:
    guarded.learn()
    guarded.trainer.publish()
    guarded.guard = guarded.new_guard()
    guarded.move(guarded.guard.replica)
    guarded.move(guarded.replica)
    guarded.assert_parity()


def test_a_checkpoint_of_the_newest_good_version_serves_at_once(guarded) -> None:
    guarded.trainer.checkpoint()
    guarded.move(guarded.guard.replica)
    guarded.move(guarded.replica)
    version = ".".join(map(str, guarded.trainer.publisher.next_delta))
    assert guarded.replica.state.version == version
    late = Replica(guarded.job, guarded.log, CPU, guarded.clock)
    assert late.load_newest() and late.state.version == version
    guarded.move(late)
    guarded.poison()
    guarded.publish()
    guarded.move(late)
    later = Replica(guarded.job, guarded.log, CPU, guarded.clock)
    assert later.load_newest()
    guarded.move(later)
    assert later.state.version == late.state.version == version
    assert None not in (late._subscriber, later._subscriber), "both wait for the end of the hold"
    for one in (late, later):
        one.close()


def test_the_end_of_a_hold_reaches_a_replica_wherever_its_read_ended(guarded) -> None:
    """The guard starts from a checkpoint at the end of the log, while the replica has read the last record."""
    guarded.trainer.checkpoint()
    guarded.guard = guarded.new_guard()
    guarded.move(guarded.guard.replica)
    guarded.poison()
    guarded.publish()
    assert guarded.replica.is_held
    guarded.learn(40)
    guarded.publish()
    assert not newest(guarded).held
    guarded.trainer.checkpoint()
    guarded.publish()
    guarded.move(guarded.replica)
    guarded.assert_parity()


def test_a_guard_that_starts_from_a_checkpoint_of_the_next_generation_passes_over_what_was_held(guarded) -> None:
    guarded.poison()
    guarded.publish()
    held, poisoned = newest(guarded), guarded.log.end_offset("updates")
    guarded.learn(40)
    guarded.trainer.publisher = guarded.trainer.new_publisher(2, Parent(1, 1, 0))
    guarded.trainer.checkpoint()
    guarded.guard = guarded.new_guard()
    guarded.learn()
    guarded.publish()
    ((start, end),) = newest(guarded).refused
    assert start == held.good_until and end >= poisoned
    guarded.move(guarded.replica)
    guarded.assert_parity()


def test_a_verdict_that_the_log_refused_is_appended_later(guarded, monkeypatch) -> None:
    guarded.poison()
    guarded.trainer.publish()
    with monkeypatch.context() as patch:
        patch.setattr(guarded.guard, "_log", RefusingLog(guarded.log))
        guarded.move(guarded.guard.replica)
    assert not newest(guarded).held
    guarded.move(guarded.guard.replica)  # no publication comes
    assert newest(guarded).held


class Moments:
    """A stop signal that ends `follow` after some waits, each of which moves the clock."""

    def __init__(self, clock: ManualClock, num: int) -> None:
        self._clock, self._left = clock, num

    def is_set(self) -> bool:
        return self._left <= 0

    def wait(self, timeout_s: float) -> None:
        self._left -= 1
        self._clock.advance(timeout_s)


@pytest.mark.parametrize("is_kept", [True, False])
def test_replicas_that_have_followed_what_is_held_go_back_if_they_can_and_stay_healthy(guarded, is_kept: bool) -> None:
    good = guarded.served()
    guarded.poison()
    guarded.trainer.publish()
    guarded.move(guarded.replica)
    guarded.clock.advance(31.0)
    guarded.move(guarded.replica)  # the guard is silent
    guarded.assert_parity()
    guarded.move(guarded.guard.replica)
    if not is_kept:
        shutil.rmtree(guarded.job.trainer.checkpoint_dir)
    guarded.move(guarded.replica)
    if is_kept:
        np.testing.assert_allclose(guarded.served(), good, atol=1e-6)
    else:
        guarded.replica.follow(Moments(guarded.clock, 100))
    assert guarded.replica.is_held and guarded.replica.is_fresh, "all replicas would be out at once"


def test_a_verdict_is_the_same_after_the_way_through_bytes() -> None:
    verdict = Verdict(40, ((10, 20), (30, 35)), True, "NE", "3.4", 1_700_000_000_000, {0: 5, 2: 9})
    assert decode_verdict(encode_verdict(verdict)) == verdict
