"""Audit of the updates: a model rebuilt as a replica does it, compared with the digests that the trainer has published."""

from __future__ import annotations

from dataclasses import dataclass

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.errors import DigestMismatch, NotReady
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.sync import DenseRequester, ModelDigest
from monolith_serving.replica.checkpoint_loader import CheckpointLoader
from monolith_serving.replica.deltas import apply_delta
from monolith_serving.replica.device import Cpu
from monolith_serving.replica.replica import UpdatesLog


@dataclass(frozen=True)
class Audit:
    """Result at the last publication: `digest` is the trainer's, `rows` is of the rebuilt model."""

    version: str  # "generation.seq", as in `RankResponse`
    watermark_ms: int  # event time
    digest: ModelDigest
    rows: int
    num_compared: int  # publications


def audit_updates(job: JobConfig, log: Log, clock: Clock) -> Audit:
    """Load the newest checkpoint, apply the updates up to the present end of the log, and compare each digest on the way.

    It needs the memory of a replica, and asks the trainer for nothing.

    Raises:
        NotReady: there is no checkpoint, or no publication after it.
        DigestMismatch: rows or dense parameters differ, or a dense update does not fit.
        DeltaGap, DeltaConflict, ModelReplaced, WireError, LogError: the updates after the checkpoint cannot be followed.
    """
    loaded = CheckpointLoader(job, Cpu(), clock).load_newest()
    if loaded is None:
        raise NotReady(f"no checkpoint in {job.trainer.checkpoint_dir!r} that can be loaded")
    end = log.end_offset(Topics.of(job.log).updates)
    # What the guard holds is audited, too.
    updates = UpdatesLog.of(job.model_copy(update={"serving": job.serving.model_copy(update={"guarded": False})}), log, clock)
    subscriber, requester, state = updates.subscriber(loaded), _NoRequests(), loaded.state
    found: Audit | None = None
    while subscriber.offset < end and not subscriber.is_at_end:
        for delta in subscriber.read(0.0):
            state = apply_delta(state, delta, requester)
            if delta.digest is not None:
                compared = 1 if found is None else found.num_compared + 1
                found = Audit(state.version, delta.watermark_ms, delta.digest, state.table.digest, compared)
    if found is None:
        raise NotReady(f"no publication after {loaded.checkpoint}")
    for name, encoding in state.table.encodings.items():
        if (its := found.digest.encoding_of(name)) is not encoding:
            raise DigestMismatch(f"encoding of feature {name!r} must be {its.value!r} to compare digests, got {encoding.value!r}")
    return found


class _NoRequests(DenseRequester):
    """Refuses a dense update that does not fit, in place of asking for another one."""

    def __init__(self) -> None:
        pass

    def ask(self, generation: int, seq: int, fingerprint: int) -> None:
        raise DigestMismatch(f"dense parameters must fit the update ({generation}, {seq}), got fingerprint {fingerprint:08x}")

    def answered(self) -> None:
        pass
