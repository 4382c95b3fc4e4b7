"""Flow (b) for the dense parameters: a replica whose state does not fit an update keeps it, asks, and gets a full state."""

from __future__ import annotations

from dataclasses import replace

import torch
from prometheus_client import REGISTRY

from monolith_py.io.log.topics import Topics
from monolith_py.sync import DenseForm, DenseState, Parent, decode_delta, next_generation
from monolith_serving.replica.replica import Replica


def dense_gaps() -> float:
    return REGISTRY.get_sample_value("monolith_replica_faults_total", {"reason": "DenseGap"}) or 0.0


def dense_forms(trainer) -> list[DenseForm]:
    deltas = [decode_delta(record.value) for record in trainer.log.read(trainer.topic, 0, 0, 1000)]
    return [delta.dense.form for delta in deltas if delta.dense is not None]


def lose_dense(replica: Replica) -> None:
    """Give the replica a dense state that only a full update fits."""
    replica._state = replace(replica.state, dense=DenseState.of({"lost": torch.zeros(1)}, replica.state.dense.identity))


def test_a_replica_with_another_dense_state_applies_the_rows_and_gets_a_full_update(make_trainer, make_replica, clock):
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica, other = make_replica(trainer), make_replica(trainer)
    requests, gaps, model = Topics.of(trainer.job.log).dense_requests, dense_gaps(), replica.state.model
    lose_dense(replica)
    trainer.step(3)
    rows = replica.state.table.num_rows
    trainer.publish()
    trainer.lead(replica)
    assert replica.state.model is model and replica.state.table.num_rows > rows
    assert replica.state.next_delta == trainer.publisher.next_delta
    assert dense_gaps() == gaps + 1 and trainer.log.end_offset(requests) == 1
    trainer.step(3)
    trainer.publish()
    for each in (replica, other):
        trainer.lead(each)
        trainer.assert_parity(each)
    assert dense_forms(trainer) == [DenseForm.FULL, DenseForm.VALUES, DenseForm.FULL]
    trainer.step()
    trainer.publish()
    trainer.lead(replica)
    trainer.assert_parity(replica)
    assert dense_forms(trainer)[-1] is DenseForm.VALUES and dense_gaps() == gaps + 1
    assert not replica.load_newest(), "no checkpoint was needed"


def test_a_sparse_tower_reaches_the_replica_through_its_ramp_and_its_swaps(make_trainer, make_replica):
    sparsity = {"preset": "dsl_online", "update_interval": 2, "ramp": [1, 5], "score_batches": 1}
    trainer = make_trainer(model={"tower": [48, 32], "sparsity": sparsity})
    trainer.step()
    trainer.checkpoint()
    replica = make_replica(trainer)
    densities = []
    for _ in range(12):
        trainer.step()
        trainer.publish()
        trainer.lead(replica)
        trainer.assert_parity(replica)
        mine, theirs = trainer.trainer.model.tower, replica.state.model.in_torch.tower
        assert theirs.density == mine.density
        assert [int(layer.topology_version) for layer in theirs.sparse_layers] == [
            int(layer.topology_version) for layer in mine.sparse_layers
        ]
        densities.append(round(theirs.density, 3))
    assert densities[0] > densities[4] > densities[-1] - 1e-9 and 0.19 < densities[-1] < 0.21
    forms = dense_forms(trainer)
    assert forms[0] is DenseForm.FULL and {DenseForm.VALUES, DenseForm.SWAP} <= set(forms)
    late = make_replica(trainer)  # from the checkpoint of a dense moment, through all that came since
    trainer.lead(late)
    trainer.assert_parity(late)


def test_a_replica_that_cannot_ask_serves_on_until_the_next_full_update(make_trainer, make_replica):
    trainer = make_trainer()
    trainer.step(2)
    trainer.checkpoint()
    replica = make_replica(trainer, refuses=True)
    lose_dense(replica)
    for _ in range(3):
        trainer.step()
        trainer.publish()
        trainer.lead(replica)
    assert replica.state.next_delta == trainer.publisher.next_delta
    assert trainer.log.end_offset(Topics.of(trainer.job.log).dense_requests) == 0
    trainer.publisher.close()
    trainer.publisher = trainer.new_publisher(next_generation(trainer.log, trainer.topic, 1), Parent(1, 0, 0))
    trainer.publish()
    trainer.lead(replica)
    trainer.assert_parity(replica)
