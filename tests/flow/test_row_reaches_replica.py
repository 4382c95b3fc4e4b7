"""Flow (b): a row touched in training reaches a replica over the log; each fault on the way is noticed and healed."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest

from monolith_py.errors import TableFull
from monolith_py.sync import Delta, DenseUpdate, Parent, RowEncoding, encode_delta, next_generation
from monolith_serving.replica import checkpoint_loader
from monolith_serving.replica.table import ReplicaTable

START_MS = 1_700_000_000_000


@pytest.mark.parametrize(("encoding", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", 1e-2), ("int4", 0.1), ("mixed", 0.1)])
def test_replica_and_trainer_predict_the_same(make_trainer, make_replica, encoding, tolerance):
    trainer = make_trainer(encoding)
    trainer.step(5)
    trainer.checkpoint()
    replica = make_replica(trainer)
    trainer.assert_parity(replica, tolerance)
    trainer.step(20)
    trainer.publish()
    trainer.lead(replica)
    trainer.assert_parity(replica, tolerance)


def test_a_replica_that_starts_late_ends_equal_to_one_that_started_early(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.checkpoint()
    early = make_replica(trainer)
    for _ in range(3):
        trainer.step(4)
        trainer.publish()
        trainer.lead(early)
    late = make_replica(trainer)
    trainer.lead(late)
    batch = trainer.batch(5)
    np.testing.assert_array_equal(late.state.predict(batch), early.state.predict(batch))
    assert late.state.version == early.state.version == f"1.{trainer.publisher.next_delta[1]}"


def test_an_evicted_row_reads_zeros_in_the_replica(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.step(3)
    trainer.checkpoint()
    replica = make_replica(trainer)
    rows_before = replica.state.table.num_rows
    evicted = trainer.bags.evict(now_s=1000)
    assert len(evicted["user_id"]) == len(np.unique(np.concatenate([trainer.batch(n).fids[:64] for n in (1, 2, 3)])))
    trainer.publish()
    trainer.lead(replica)
    assert replica.state.table.num_rows == rows_before - len(evicted["user_id"])
    assert not replica.state.table.lookup(trainer.batch(1))[:, :8].any()
    trainer.assert_parity(replica)


def test_replicas_follow_a_restarted_trainer(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.checkpoint()
    replica = make_replica(trainer)
    trainer.step()
    trainer.publish()
    trainer.publisher.close()
    trainer.publisher = trainer.new_publisher(next_generation(trainer.log, trainer.topic, 1), Parent(1, 0, 0))
    trainer.step()
    trainer.publish()
    trainer.lead(replica)
    assert replica.state.next_delta == trainer.publisher.next_delta and replica.state.next_delta[0] == 2
    trainer.assert_parity(replica)


def damage_gap(trainer):
    generation, seq = trainer.publisher.next_delta
    trainer.log.append(trainer.topic, [encode_delta(Delta(generation, seq + 7, 0, START_MS))], time_ms=START_MS)


def damage_record(trainer):
    trainer.log.append(trainer.topic, [b"\xff\xff\xff"], time_ms=START_MS)


def damage_unknown_table(trainer):
    delta = Delta(*trainer.publisher.next_delta, 0, START_MS, table="nobody", dim=8, rows=np.empty((0, 32), np.uint8))
    trainer.log.append(trainer.topic, [encode_delta(delta)], time_ms=START_MS)


def damage_dense(trainer):
    delta = Delta(*trainer.publisher.next_delta, 0, START_MS, dense=DenseUpdate(0, 0, RowEncoding.FP32, full=b"no safetensors"))
    trainer.log.append(trainer.topic, [encode_delta(delta)], time_ms=START_MS)


def damage_trim(trainer):
    trainer.publish()
    trainer.log.trim(trainer.topic, 0, trainer.log.end_offset(trainer.topic))
    trainer.publish()


@pytest.mark.parametrize("damage", [damage_gap, damage_record, damage_unknown_table, damage_dense, damage_trim])
def test_updates_that_cannot_be_followed_are_healed_by_the_next_checkpoint(make_trainer, make_replica, clock, damage):
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    batch = trainer.batch(9)
    before = replica.state.predict(batch)
    damage(trainer)
    trainer.lead(replica)
    np.testing.assert_array_equal(replica.state.predict(batch), before)
    assert not replica.load_newest(), "the same checkpoint would lead into the same hole"
    clock.advance(1.0)
    trainer.step(3)
    trainer.checkpoint()
    assert replica.load_newest()
    trainer.step()
    trainer.publish()
    trainer.lead(replica)
    trainer.assert_parity(replica)


def test_a_replica_without_a_free_row_stops_and_counts_no_delta_as_applied(make_trainer, make_replica, monkeypatch):
    trainer = make_trainer()
    trainer.step()
    trainer.checkpoint()
    num_rows = make_replica(trainer).state.table.num_rows
    monkeypatch.setattr(checkpoint_loader, "ReplicaTable", partial(ReplicaTable, max_rows=num_rows))
    replica = make_replica(trainer)
    before = replica.state.next_delta
    trainer.log.append(trainer.topic, [encode_delta(Delta(*before, 0, START_MS))], time_ms=START_MS)
    rows = np.zeros((64, 32), np.uint8)
    delta = Delta(before[0], before[1] + 1, 0, START_MS, table="tags", dim=8, fids=1000 + np.arange(64), rows=rows)
    trainer.log.append(trainer.topic, [encode_delta(delta)], time_ms=START_MS)
    for _ in range(2):
        with pytest.raises(TableFull, match="rows of the replica must be at most"):
            replica.apply_updates(0.0)
        assert replica.state.next_delta == replica._subscriber.next_delta == (before[0], before[1] + 1)


def test_a_frozen_replica_stays_at_its_checkpoint(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer, follow=False)
    batch = trainer.batch(9)
    before = replica.state.predict(batch)
    trainer.step(5)
    trainer.checkpoint()
    replica.follow(threading.Event())  # returns at once: there is nothing to follow
    np.testing.assert_array_equal(replica.state.predict(batch), before)


def test_freshness_is_the_age_of_a_step_when_its_rows_are_servable(make_trainer, make_replica, clock, tmp_path):
    trainer = make_trainer()
    trainer.step()
    trainer.checkpoint()
    clock.advance(1.0)
    replica = make_replica(trainer)
    trainer.step()
    first_rows = trainer.bags.rows_touched
    clock.advance(0.25)
    trainer.step()
    clock.advance(0.5)
    trainer.publish()
    clock.advance(0.125)
    trainer.lead(replica)
    lines = [line.split() for line in (tmp_path / "freshness").read_text().splitlines()]
    assert [(int(time_ms), float(age_s), int(rows)) for time_ms, age_s, rows in lines] == [
        (clock.now_ms(), 0.875, first_rows),
        (clock.now_ms(), 0.625, trainer.bags.rows_touched),
    ]
    assert replica.staleness_ms() == 125


def test_updates_that_a_replica_catches_up_with_are_not_counted_as_late(make_trainer, make_replica, clock, tmp_path):
    trainer = make_trainer()
    trainer.checkpoint()
    trainer.step()
    trainer.publish()
    clock.advance(60.0)
    replica = make_replica(trainer)
    trainer.lead(replica)
    assert (tmp_path / "freshness").read_text() == ""
