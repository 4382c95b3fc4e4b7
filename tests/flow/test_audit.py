"""Flow (b): an audit rebuilds the trainer's model from checkpoint and updates, and finds what is not the trainer's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monolith_py.errors import DeltaGap, DigestMismatch, NotReady
from monolith_py.sync import Delta, DenseUpdate, ModelDigest, RowEncoding, encode_delta
from monolith_serving.replica.audit import audit_updates


@pytest.mark.parametrize("encoding", ["fp32", "int8", "int4", "mixed"])
def test_an_audit_compares_every_publication_after_the_checkpoint(make_trainer, make_replica, clock, encoding):
    trainer = make_trainer(encoding)
    trainer.step(3)
    trainer.checkpoint()
    for _ in range(4):
        trainer.step()
        trainer.publish()
    audit = audit_updates(trainer.job, trainer.log, clock)
    assert audit.num_compared == 4 and audit.watermark_ms == clock.now_ms()
    assert audit.version == ".".join(map(str, trainer.publisher.next_delta))
    assert audit.rows == audit.digest.rows == trainer.publisher.digest.rows
    replica = make_replica(trainer)
    trainer.lead(replica)
    assert (replica.state.version, replica.state.table.digest) == (audit.version, audit.rows)


def test_what_no_guard_has_judged_is_audited_too(make_trainer, clock):
    trainer = make_trainer()
    trainer.step()
    trainer.checkpoint()
    trainer.step()
    trainer.publish()
    job = trainer.job.model_copy(update={"serving": trainer.job.serving.model_copy(update={"guarded": True})})
    assert audit_updates(job, trainer.log, clock).num_compared == 1


def append(trainer, clock, **fields) -> None:
    generation, seq = trainer.publisher.next_delta
    delta = Delta(generation, seq, 0, clock.now_ms(), trainer="mini")
    trainer.log.append(trainer.topic, [encode_delta(replace(delta, **fields))], time_ms=clock.now_ms())


@pytest.mark.parametrize(
    ("fields", "error", "rule"),
    [
        ({"digest": ModelDigest(5, RowEncoding.FP32)}, DigestMismatch, "digest of the rows must be 0000000000000005"),
        (
            {"digest": ModelDigest(5, RowEncoding.FP16)},
            DigestMismatch,
            "encoding of feature 'user_id' must be 'fp16' to compare digests, got 'fp32'",
        ),
        ({"dense": DenseUpdate(1, 2, RowEncoding.FP32, values=bytes(4))}, DigestMismatch, r"dense parameters must fit the update \(1,"),
        ({"seq": 99}, DeltaGap, "expected"),
        ({"table": "tags", "dim": 8, "fids": np.array([7]), "rows": np.ones((1, 32), np.uint8)}, NotReady, "no publication after"),
    ],
)
def test_what_is_not_the_trainers_ends_the_audit(make_trainer, clock, fields, error, rule):
    trainer = make_trainer()
    trainer.step()
    trainer.checkpoint()
    append(trainer, clock, **fields)
    with pytest.raises(error, match=rule):
        audit_updates(trainer.job, trainer.log, clock)


def test_an_audit_without_a_checkpoint_or_updates_says_so(make_trainer, clock):
    trainer = make_trainer()
    with pytest.raises(NotReady, match=r"no checkpoint in '.*' that can be loaded"):
        audit_updates(trainer.job, trainer.log, clock)
    trainer.checkpoint()
    with pytest.raises(NotReady, match="no publication after"):
        audit_updates(trainer.job, trainer.log, clock)
