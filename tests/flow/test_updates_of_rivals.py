"""Faults that other systems had between a trainer and its replicas, each as a test by name."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client import REGISTRY

from monolith_py.io.log.log import Record
from monolith_py.sync import Delta, RowEncoding, decode_delta, encode_delta, pack_rows
from monolith_serving.replica.table import ReplicaTable


def faults(reason: str) -> float:
    return REGISTRY.get_sample_value("monolith_replica_faults_total", {"reason": reason}) or 0.0


def applied() -> float:
    return REGISTRY.get_sample_value("monolith_deltas_applied_total") or 0.0


def deltas(trainer) -> list[bytes]:
    """Return the records of the updates so far."""
    return [record.value for record in trainer.log.read(trainer.topic, 0, 0, 1000)]


def rows_delta(next_delta: tuple[int, int], value: float) -> Delta:
    """Return a delta that sets the rows of 100 tags to `value`."""
    rows = pack_rows(np.full((100, 8), value, np.float32), RowEncoding.FP32)
    return Delta(*next_delta, 0, 1, table="tags", dim=8, encoding=RowEncoding.FP32, fids=np.arange(-50, 50), rows=rows)


def append(trainer, values: list[bytes]) -> None:
    trainer.log.append(trainer.topic, values, time_ms=trainer.clock.now_ms())


def test_a_record_without_a_value_ends_no_replica(make_trainer, make_replica, monkeypatch):
    """A tombstone in `updates` ended each replica with TypeError, at every start; the state in use serves on now."""
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    before, version = faults("TypeError") + faults("WireError"), replica.state.version
    append(trainer, [b"?"])
    log = replica._updates.log
    read = log.read

    def read_null(*arguments: object) -> list[Record]:
        return [record._replace(value=None) for record in read(*arguments)]

    monkeypatch.setattr(log, "read", read_null)
    assert replica.apply_updates(0.0)
    assert faults("TypeError") + faults("WireError") == before + 1
    assert replica.state.version == version and replica._subscriber is None
    monkeypatch.undo()
    trainer.clock.advance(1.0)
    trainer.step()
    trainer.checkpoint()
    assert replica.load_newest()
    trainer.assert_parity(replica)


def test_a_version_rises_only_if_its_delta_was_applied(make_trainer, make_replica, monkeypatch):
    """huggingface/trl#5932: the weight version rose though the update had failed."""
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    version, count = replica.state.version, applied()

    def fail(*_: object) -> None:
        raise MemoryError("as planned")

    append(trainer, [encode_delta(rows_delta(replica.state.next_delta, 1.0))])
    monkeypatch.setattr(ReplicaTable, "assign", fail)
    assert replica.apply_updates(0.0)
    assert replica.state.version == version and applied() == count and replica._subscriber is None


@pytest.mark.parametrize(("order", "is_gap"), [((0, 1, 1, 0, 2), False), ((1, 0, 2), True), ((0, 2), True), ((2, 1, 0), True)])
def test_increments_in_wrong_order_missing_or_doubled_are_never_mixed(make_trainer, make_replica, order, is_gap):
    """NVIDIA/recsys-examples#454: base and increments in wrong order, missing or doubled."""
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    generation, seq = replica.state.next_delta
    made = [rows_delta((generation, seq + number), number) for number in range(3)]
    before = faults("DeltaGap")
    append(trainer, [encode_delta(made[n]) for n in order])
    replica.apply_updates(0.0)
    assert (faults("DeltaGap") == before + 1) is is_gap
    in_order = next((n for n in range(len(order)) if order[n] != n), 3) if is_gap else 3
    assert replica.state.next_delta == (generation, seq + in_order)


def test_rows_of_a_replica_are_those_of_the_trainer_bit_for_bit(make_trainer, make_replica):
    """DeepRec-AI/DeepRec#999 and #1023: an incremental restore gave wrong rows."""
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    for _ in range(5):
        trainer.step(2)
        trainer.publish()
    trainer.lead(replica)
    late = make_replica(trainer)
    trainer.lead(late)
    for seed in (1, 5, 12, 777):
        batch = trainer.batch(seed)
        pooled = [one.state.table.lookup(batch).numpy() for one in (replica, late)]
        np.testing.assert_array_equal(*pooled)
    trainer.assert_parity(replica)
    assert len(deltas(trainer)) > 5 and all(decode_delta(value) for value in deltas(trainer))


def test_the_rest_of_a_pruned_chain_is_not_applied_to_an_older_base(make_trainer, make_replica):
    """NovaSky-AI/SkyRL#1902: a chain was pruned and its rest applied to the wrong base."""
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    version, batch = replica.state.version, trainer.batch(9)
    before = replica.state.predict(batch)
    trainer.step(3)
    trainer.publish()
    trainer.log.trim(trainer.topic, 0, trainer.log.end_offset(trainer.topic))
    trainer.step(3)
    trainer.publish()
    replica.apply_updates(0.0)
    assert replica.state.version == version and replica._subscriber is None
    np.testing.assert_array_equal(replica.state.predict(batch), before)


def test_readers_do_not_wait_for_a_writer(make_trainer, make_replica, monkeypatch):
    """pytorch/FBGEMM#5554: a writer with precedence stalled all readers."""
    trainer = make_trainer()
    trainer.job = trainer.job.model_copy(update={"serving": trainer.job.serving.model_copy(update={"engine": "fbgemm"})})
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer)
    batch, store = trainer.batch(9), replica.state.table._store._groups[0]._store
    before = replica.state.predict(batch)
    writing, gate, write = threading.Event(), threading.Event(), store.write

    def write_slowly(*arguments: object) -> None:
        writing.set()
        gate.wait()
        write(*arguments)

    monkeypatch.setattr(store, "write", write_slowly)
    append(trainer, [encode_delta(rows_delta(replica.state.next_delta, 1.0))])
    with ThreadPoolExecutor(5) as pool:
        writer = pool.submit(replica.apply_updates, 0.0)
        assert writing.wait(60)
        readers = [pool.submit(replica.state.predict, batch) for _ in range(4)]
        try:
            for reader in readers:
                np.testing.assert_array_equal(reader.result(timeout=60), before)
        finally:
            gate.set()
        assert writer.result(timeout=60)
    assert (replica.state.predict(batch) != before).any()
