"""Applies deltas to a model state: rows to its table, dense updates to its model."""

from __future__ import annotations

import logging

from monolith_py.errors import DenseGap, DigestMismatch
from monolith_py.observe.metrics import DELTAS_APPLIED, REPLICA_DIGESTS_EQUAL, REPLICA_FAULTS, ROWS_APPLIED
from monolith_py.sync import Delta, DenseDigest, DenseRequester, ModelDigest
from monolith_serving.replica.model_state import ModelState

_logger = logging.getLogger(__name__)

# Rows assigned in one call, so that ranking threads run in between.
_ROWS_AT_ONCE = 2048


def apply_delta(state: ModelState, delta: Delta, requester: DenseRequester) -> ModelState:
    """Return `state` after `delta`. The rows are written into the table of `state` itself.

    A dense update that does not fit is left out: the model keeps its weights, and `requester` asks the trainer for a full state.

    Raises:
        WireError: the delta does not fit this job.
        DigestMismatch: the state after the delta is not the trainer's.
        TableFull: the table has no free row.
    """
    if delta.table:
        state.table.evict(delta.table, delta.evicted)
        for start in range(0, len(delta.fids), _ROWS_AT_ONCE):
            chunk = slice(start, start + _ROWS_AT_ONCE)
            state.table.assign(delta.table, delta.fids[chunk], delta.rows[chunk], delta.encoding)
    after = _with_dense(state, delta, requester)
    if delta.digest is not None:
        _check_digest(after, delta.digest)
    DELTAS_APPLIED.inc()
    ROWS_APPLIED.inc(len(delta.fids))
    return after


def _check_digest(state: ModelState, trainer: ModelDigest) -> None:
    """Compare the digest of `state` with that of the trainer, where both have the same encodings.

    Raises:
        DigestMismatch: they differ.
    """
    if any(trainer.encoding_of(name) is not encoding for name, encoding in state.table.encodings.items()):
        return
    if trainer.rows != state.table.digest:
        raise DigestMismatch(f"digest of the rows must be {trainer.rows:016x} at {state.version}, got {state.table.digest:016x}")
    # A dense update that does not fit has been asked for already.
    if trainer.dense is not None and trainer.dense.fingerprint == state.dense.fingerprint:
        dense = DenseDigest.of(state.dense, trainer.dense.encoding)
        if dense != trainer.dense:
            raise DigestMismatch(f"digest of the dense parameters must be {trainer.dense} at {state.version}, got {dense}")
    REPLICA_DIGESTS_EQUAL.inc()


def _with_dense(state: ModelState, delta: Delta, requester: DenseRequester) -> ModelState:
    """Return `state` after the dense update of `delta`, if it has one and it fits."""
    next_delta = (delta.generation, delta.seq + 1)
    try:
        after = state.after(next_delta, delta.published_ms, delta.dense)
    except DenseGap as error:
        REPLICA_FAULTS.labels(reason=type(error).__name__).inc()
        _logger.warning("model %s keeps its dense state and asks for a full one: %s", state.version, error)
        requester.ask(delta.generation, delta.seq, state.dense.fingerprint)
        return state.after(next_delta, delta.published_ms)
    if delta.dense is not None:
        requester.answered()
    return after
