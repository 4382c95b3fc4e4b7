"""Generations: each says what it descends from, and takes back what lost lives have published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import LogConfig, SyncConfig
from monolith_py.errors import DeltaConflict, DeltaGap, ModelReplaced
from monolith_py.io import MemoryLog
from monolith_py.io.log.topics import Topics
from monolith_py.sync import Delta, Generation, Parent, PublishedModel, Publisher, Subscriber, decode_delta, encode_delta, next_generation

TOPICS = Topics.of(LogConfig(url="sqlite:///log"))
SETTINGS = SyncConfig(encoding="fp32", rows_per_delta=3)


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    for topic in (TOPICS.updates, TOPICS.dense_requests):
        log.create_topic(topic)
    return log


def append(log: MemoryLog, deltas: Iterable[Delta]) -> None:
    log.append("updates", [encode_delta(delta) for delta in deltas], time_ms=1)


def life(log, table, parent: Parent | None) -> Publisher:
    """Return the publisher of a trainer that starts now."""
    number = next_generation(log, "updates", parent.generation if parent else 0)
    generation = Generation(number, "trainer", parent)
    model = PublishedModel({"a": table}, lambda: {"bias": torch.zeros(2)})
    return Publisher(log, TOPICS, model, SETTINGS, ManualClock(1), generation=generation)


def checkpoint(publisher: Publisher) -> Parent:
    offset = publisher.flush(0)
    return Parent(*publisher.next_delta, offset)


def follow(log, replica, next_delta: tuple[int, int] = (0, 0), offset: int = 0) -> Subscriber:
    subscriber = Subscriber(log, "updates", offset=offset, next_delta=next_delta)
    while subscriber.offset < log.end_offset("updates"):
        for delta in subscriber.read(0.0):
            replica.apply(delta)
    return subscriber


def read(log, *, next_delta: tuple[int, int] = (1, 1)) -> list[tuple[int, int]]:
    subscriber = Subscriber(log, "updates", offset=0, next_delta=next_delta)
    return [(delta.generation, delta.seq) for delta in subscriber.read(0.0)]


def test_a_replica_has_the_rows_of_the_trainer_after_a_life_is_lost(log, make_table, replica):
    table = make_table()
    for fid in range(5):
        table.put(fid, 1.0)
    first = life(log, table, None)
    parent = checkpoint(first)
    lost = make_table()
    lost.rows, lost.ticket = dict(table.rows), table.ticket
    first._model = PublishedModel({"a": lost}, first._model.dense)
    lost.put(0, 2.0)  # learnt in the lost life alone
    lost.put(7, 2.0)  # admitted there alone
    lost.evict(1)  # evicted there alone
    first.flush(0)
    second = life(log, table, parent)
    assert second.descends
    table.put(4, 3.0)
    second.flush(0)
    follow(log, replica)
    assert {fid: float(row[0]) for fid, row in replica.rows["a"].items()} == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 3.0}
    published = [delta for delta in replica.deltas if delta.generation == 2]
    assert [delta.parent for delta in published if delta.seq == 0] == [parent]
    assert {fid for delta in published for fid in delta.fids.tolist()} == {0, 1, 4}, "only what was lost or learnt is published"


@pytest.mark.parametrize("fault", ["trimmed", "damaged", "another log"])
def test_a_generation_that_cannot_take_back_lost_updates_is_a_new_model_to_replicas(log, make_table, replica, fault):
    table = make_table()
    first = life(log, table, None)
    parent = checkpoint(first)
    held = follow(log, replica)
    first.flush(0)
    if fault == "trimmed":
        log.trim("updates", 0, parent.offset + 1)
    elif fault == "damaged":
        log.append("updates", [b"no delta"], time_ms=1)
    else:
        parent = replace(parent, offset=99)
    end = log.end_offset("updates")
    second = life(log, table, parent)
    assert not second.descends
    second.flush(0)
    with pytest.raises(ModelReplaced, match="generation 2 does not descend"):
        follow(log, replica, held.next_delta, end)


@pytest.mark.parametrize(
    ("parent", "error"), [(None, ModelReplaced), (Parent(1, 2, 0), DeltaGap), (Parent(1, 1, 0), None), (Parent(1, 0, 0), None)]
)
def test_a_replica_follows_a_generation_that_starts_at_or_before_its_own_state(log, parent, error):
    append(log, [Delta(2, 0, 1, 1, parent=parent), Delta(2, 1, 1, 1)])
    if error is None:
        assert read(log) == [(2, 0), (2, 1)]
        return
    with pytest.raises(error):
        read(log)


def test_a_rollback_is_followed_across_the_generations_in_between(log):
    append(log, [Delta(3, 0, 1, 1, parent=Parent(1, 4, 0))])
    assert read(log, next_delta=(2, 9)) == [(3, 0)]


def test_one_who_holds_nothing_follows_the_first_generation_that_it_finds(log):
    append(log, [Delta(1, 0, 1, 1), Delta(2, 0, 1, 1)])
    subscriber = Subscriber(log, "updates", offset=0, next_delta=(0, 0))
    with pytest.raises(ModelReplaced, match=r"at \(1, 1\)"):
        list(subscriber.read(0.0))


def test_a_copy_of_a_delta_is_skipped_and_another_one_of_its_number_is_a_conflict(log):
    first = Delta(1, 1, 1, 1, table="a", dim=4, fids=np.array([1]), rows=np.zeros((1, 16), np.uint8))
    append(log, [first, first, replace(first, fids=np.array([2]))])
    subscriber = Subscriber(log, "updates", offset=0, next_delta=(1, 1))
    with pytest.raises(DeltaConflict, match=r"delta \(1, 1\) must be the one applied before"):
        list(subscriber.read(0.0))
    assert (subscriber.offset, subscriber.next_delta) == (2, (1, 2))


def test_two_trainers_of_one_generation_are_a_conflict(log):
    append(log, [Delta(1, 1, 1, 1, trainer="a"), Delta(1, 2, 1, 1, trainer="b")])
    with pytest.raises(DeltaConflict, match=r"generation 1 must come from trainer 'a', got 'b' at \(1, 2\)"):
        read(log)


def test_every_delta_names_its_trainer(log, make_table):
    publisher = life(log, make_table(), None)
    publisher.flush(0)
    publisher.flush(0)
    assert {decode_delta(record.value).trainer for record in log.read("updates", 0, 0, 99)} == {"trainer"}
