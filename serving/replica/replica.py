"""The model that a replica ranks with: loaded from the newest checkpoint, then kept up to date by following the updates."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import CheckpointError, DeltaGap, DenseGap, LogError, NotReady, OffsetTrimmed, TopicMissing, WireError
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.model import build_model
from monolith_py.observe.metrics import (
    DELTAS_APPLIED,
    REPLICA_BYTES,
    REPLICA_FAULTS,
    REPLICA_LOADS,
    REPLICA_ROWS,
    ROWS_APPLIED,
    STALENESS_SECONDS,
)
from monolith_py.process import StopSignal
from monolith_py.sync import Delta, DenseRequester, DenseState, RowEncoding, Subscriber, pack_rows
from monolith_py.table import EmbeddingTable
from monolith_py.training import Checkpoint
from monolith_serving.replica.freshness import Freshness
from monolith_serving.replica.model_state import ModelState, with_weights
from monolith_serving.replica.table import ReplicaTable

logger = logging.getLogger(__name__)

# Rows applied in one go, so that ranking gets its turn in between.
_ROWS_AT_ONCE = 2048
# How long one look for updates waits for the first, and how soon a log that was away is asked again.
_POLL_S = 0.2
_LOG_RETRY_S = 0.5
# A full dense state are asked for again no sooner than this, and than two turns of the trainer's dense parameters take.
_ASK_AGAIN_S = 5.0


class Replica:
    """Holds the state that requests are ranked with. `follow` runs in one thread; `state` may be called from any.

    A hole in the updates, a record that is no delta, or updates that the log has let go of: the replica can no longer trust that
    reading on gives the trainer's state. It goes on serving what it has, counts the fault, and starts again from the next checkpoint.
    A dense update that does not fit is a smaller fault: the replica keeps its dense state, applies the rows, and asks the trainer for a
    full one.
    """

    def __init__(self, job: JobConfig, log: Log | None, device: torch.device, clock: Clock) -> None:
        """`log` is None for a replica that does not follow updates."""
        self._job, self._log, self._device, self._clock = job, log, device, clock
        self._schema = Schema.of(job)
        self._encoding = RowEncoding(job.sync.encoding)
        self._freshness = Freshness(job.serving.freshness_log)
        self._state: ModelState | None = None
        self._loaded: tuple[Checkpoint, int] | None = None  # the checkpoint behind `_state` and when it was saved
        self._loaded_ms = 0
        self._subscriber: Subscriber | None = None
        self._requester: DenseRequester | None = None
        if log is not None:
            interval_s = max(_ASK_AGAIN_S, 2 * job.sync.dense_interval_s)
            self._requester = DenseRequester(log, Topics.of(job.log).dense_requests, job.name, clock, interval_s)

    @property
    def state(self) -> ModelState:
        """Return what to rank with now.

        Raises:
            NotReady: no checkpoint was loaded yet.
        """
        state = self._state
        if state is None:
            raise NotReady(f"no checkpoint in {self._job.trainer.checkpoint_dir!r} yet")
        return state

    @property
    def is_ready(self) -> bool:
        """Return whether a checkpoint was loaded."""
        return self._state is not None

    def staleness_ms(self) -> int:
        """Return wall-clock milliseconds since the newest applied delta was published; 0 before a checkpoint was loaded."""
        state = self._state
        return 0 if state is None else max(0, self._clock.now_ms() - state.published_ms)

    def follow(self, stop: StopSignal) -> None:
        """Load a checkpoint as soon as there is one and follow the updates until `stop`; return at once when there is nothing to follow."""
        while not stop.is_set():
            if self._subscriber is None:
                if self.is_ready and self._log is None:
                    return
                if not self.load_newest():
                    stop.wait(self._job.serving.checkpoint_poll_s)
            elif not self.apply_updates(_POLL_S):
                stop.wait(_LOG_RETRY_S)

    def load_newest(self) -> bool:
        """Load the newest checkpoint if it is not the one loaded last, and return whether it was. The old state serves meanwhile."""
        try:
            checkpoint = self._newest()
            if checkpoint is None:
                return False
            meta = checkpoint.meta
            state = self._restore(checkpoint)
        except CheckpointError as error:
            logger.warning("checkpoint not loaded, looking again: %s", error)
            return False
        self._state, self._loaded, self._loaded_ms = state, (checkpoint, meta.saved_ms), self._clock.now_ms()
        REPLICA_LOADS.inc()
        if self._log is not None:
            topic = Topics.of(self._job.log).updates
            self._subscriber = Subscriber(self._log, topic, offset=meta.updates_offset, next_delta=state.next_delta)
        logger.info(
            "loaded %s: model %s, %d rows, updates from offset %d", checkpoint, state.version, state.table.num_rows, meta.updates_offset
        )
        return True

    def apply_updates(self, timeout_s: float) -> bool:
        """Apply updates, some at most, waiting up to `timeout_s` for the first; return False where the log cannot be reached."""
        assert self._subscriber is not None and self._log is not None
        try:
            for delta in self._subscriber.read(timeout_s):
                self.apply(delta)
        except (DeltaGap, OffsetTrimmed, WireError) as error:
            self._give_up(error)
        except TopicMissing:
            raise
        except LogError as error:
            if self._is_beyond_end():
                self._give_up(error)
            else:
                logger.warning("updates cannot be read, trying again: %s", error)
            return False
        finally:
            STALENESS_SECONDS.set(self.staleness_ms() / 1000)
        return True

    def apply(self, delta: Delta) -> None:
        """Apply one delta; its rows are ranked with from here on, and its dense parameters where they fit.

        Raises:
            WireError: the delta does not fit this job.
        """
        state = self.state
        if delta.table:
            state.table.evict(delta.table, delta.evicted)
            for start in range(0, len(delta.fids), _ROWS_AT_ONCE):
                chunk = slice(start, start + _ROWS_AT_ONCE)
                state.table.assign(delta.table, delta.fids[chunk], delta.rows[chunk], delta.encoding)
        self._state = self._after(state, delta)
        if delta.published_ms >= self._loaded_ms:  # older ones are caught up with: they were not late, this replica was
            self._freshness.note(delta.steps, self._clock.now_ms())
        DELTAS_APPLIED.inc()
        ROWS_APPLIED.inc(len(delta.fids))
        REPLICA_ROWS.set(state.table.num_rows)
        REPLICA_BYTES.set(state.table.num_bytes)

    def close(self) -> None:
        """Close the freshness file. `follow` must have returned."""
        self._freshness.close()

    def _after(self, state: ModelState, delta: Delta) -> ModelState:
        """Return the state after `delta`, whose rows are in the table already. A dense update that does not fit is left out."""
        next_delta = (delta.generation, delta.seq + 1)
        try:
            after = state.after(next_delta, delta.published_ms, delta.dense)
        except DenseGap as error:
            REPLICA_FAULTS.labels(reason=type(error).__name__).inc()
            logger.warning("dense parameters of model %s kept, full ones wanted: %s", state.version, error)
            if self._requester is not None:
                self._requester.ask(delta.generation, delta.seq, state.dense.fingerprint)
            return state.after(next_delta, delta.published_ms)
        if delta.dense is not None and self._requester is not None:
            self._requester.answered()
        return after

    def _newest(self) -> Checkpoint | None:
        """Return the newest checkpoint, None where there is none or it is the one loaded last."""
        directory = Path(self._job.trainer.checkpoint_dir)
        newest = next(iter(Checkpoint.all_in(directory)), None)
        if newest is None or (self._loaded is not None and self._loaded == (newest, newest.meta.saved_ms)):
            return None  # without reading all of it again, which `Checkpoint.newest` does to verify it
        intact = Checkpoint.newest(directory)
        if intact is None or self._loaded == (intact, intact.meta.saved_ms):
            return None
        return intact

    def _give_up(self, error: Exception) -> None:
        self._subscriber = None
        REPLICA_FAULTS.labels(reason=type(error).__name__).inc()
        logger.error("updates cannot be followed, waiting for a newer checkpoint than %s: %s", self._loaded, error)

    def _is_beyond_end(self) -> bool:
        """Return whether the log answers and ends before the offset to read: it has lost records, or is another one."""
        assert self._subscriber is not None and self._log is not None
        try:
            return self._log.end_offset(Topics.of(self._job.log).updates) < self._subscriber.offset
        except LogError:
            return False

    def _restore(self, checkpoint: Checkpoint) -> ModelState:
        """Return the state that `checkpoint` holds."""
        meta = checkpoint.meta
        if meta.job != self._job.name:
            raise CheckpointError(f"{checkpoint}: is of job {meta.job!r}, expected {self._job.name!r}")
        table = ReplicaTable(self._schema.features, self._encoding, self._device)
        for name in self._schema.sparse_names:
            # This restores the optimizer state and the admission counts too, only to drop them: the peak is one table with its state.
            fids, weights = EmbeddingTable.restore(checkpoint.table(name)).export_rows()
            for start in range(0, len(fids), _ROWS_AT_ONCE):
                chunk = slice(start, start + _ROWS_AT_ONCE)
                table.assign(name, fids[chunk], pack_rows(weights[chunk], self._encoding), self._encoding)
        model = build_model(self._schema, self._job.model, self._job.seed).to(self._device)
        try:
            dense = DenseState.of(checkpoint.dense())
            model = with_weights(model, dense.tensors)
        except (ValueError, WireError) as error:
            raise CheckpointError(f"{checkpoint}: {error}") from None
        return ModelState(table, model, dense, (meta.generation, meta.next_seq), meta.saved_ms)
