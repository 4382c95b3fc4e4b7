"""A replica of the trainer's model: loaded from the newest checkpoint, then kept up to date from the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.errors import (
    DeltaConflict,
    DeltaGap,
    DigestMismatch,
    LogError,
    ModelReplaced,
    NotReady,
    OffsetTrimmed,
    TableFull,
    TopicMissing,
    UpdatesRefused,
    WireError,
)
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.observe.metrics import REPLICA_BYTES, REPLICA_FAULTS, REPLICA_LOADS, REPLICA_ROWS
from monolith_py.process import StopSignal
from monolith_py.sync import DenseRequester, Subscriber
from monolith_serving.guard.gate import Gate
from monolith_serving.log_limit import LogLimit
from monolith_serving.replica.checkpoint_loader import CheckpointLoader, LoadedCheckpoint
from monolith_serving.replica.deltas import apply_delta
from monolith_serving.replica.device import Device
from monolith_serving.replica.freshness import Freshness
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.staleness import EndOfUpdates, Staleness

_logger = logging.getLogger(__name__)

# Longest wait of one read for the first delta, and pause before the next read of a log that cannot be reached.
_POLL_S = 0.2
_LOG_RETRY_S = 0.5
# Least time between two requests for a full dense state; two dense intervals of the trainer if that is longer.
_ASK_AGAIN_S = 5.0


@dataclass(frozen=True)
class UpdatesLog:
    """Log of the updates, with the requests of a replica to the trainer."""

    log: Log
    topic: str
    requester: DenseRequester
    gate: Gate | None = None  # of a guarded replica

    @staticmethod
    def of(job: JobConfig, log: Log, clock: Clock) -> UpdatesLog:
        """Return the updates of a job."""
        topics = Topics.of(job.log)
        interval_s = max(_ASK_AGAIN_S, 2 * job.sync.dense_interval_s)
        requester = DenseRequester(log, topics.dense_requests, job.name, clock, interval_s)
        gate = Gate(job, log, clock) if job.serving.guarded else None
        return UpdatesLog(log, topics.updates, requester, gate)

    def subscriber(self, loaded: LoadedCheckpoint) -> Subscriber:
        """Return a subscriber that reads the updates after a checkpoint."""
        log = self.log if self.gate is None else self.gate.as_log()
        return Subscriber(log, self.topic, offset=loaded.updates_offset, next_delta=loaded.state.next_delta)

    def ends_before(self, offset: int) -> bool:
        """Return whether the log ends before `offset`, so it lost records or is another log; False if it cannot be reached."""
        try:
            return self.log.end_offset(self.topic) < offset
        except LogError:
            return False


class Replica:
    """Model state kept up to date with the trainer. `follow` runs in one thread; `state` is safe for threads.

    After a missing delta, a record that is no delta, or trimmed updates, further deltas cannot give the trainer's state. The replica then
    counts the fault, serves the state it has, and starts again from the next checkpoint. A dense update that does not fit is a smaller
    fault: see `apply_delta`.
    """

    def __init__(self, job: JobConfig, log: Log | None, device: Device, clock: Clock, updates: UpdatesLog | None = None) -> None:
        """Start without a state; `log` is None for a replica that follows no updates. `updates`: those of the log, by default the job's."""
        self._serving, self._checkpoint_dir, self._clock = job.serving, job.trainer.checkpoint_dir, clock
        self._updates = None if log is None else updates or UpdatesLog.of(job, log, clock)
        gate = self._updates.gate if self._updates else None
        self._loader = CheckpointLoader(job, device, clock, gate.allows if gate else None)
        self._freshness = Freshness(job.serving.freshness_log)
        self._staleness = Staleness(clock, job.serving)
        self._end = None if log is None else EndOfUpdates(log, Topics.of(job.log).updates, clock)
        self._state: ModelState | None = None
        self.on_change: Callable[[], None] | None = None  # called by the follower's thread once a new state is there
        self._loaded_ms = 0  # when `_state` was loaded, wall clock
        self._load_error = ""  # unexpected one of the last load
        self._log_limit = LogLimit(clock)
        self._subscriber: Subscriber | None = None  # None: the updates cannot be followed until the next checkpoint

    @property
    def state(self) -> ModelState:
        """Return the current state.

        Raises:
            NotReady: no checkpoint was loaded yet.
        """
        self.require_ready()
        assert self._state is not None
        return self._state

    def require_ready(self) -> None:
        """Check that a checkpoint was loaded.

        Raises:
            NotReady: no checkpoint was loaded yet.
        """
        if self._state is None:
            where = f" in channel {self._serving.channel!r}" if self._serving.channel else ""
            raise NotReady(f"no checkpoint{where} in {self._checkpoint_dir!r} yet")

    @property
    def is_ready(self) -> bool:
        """Return whether a checkpoint was loaded."""
        return self._state is not None

    @property
    def is_held(self) -> bool:
        """Return whether the guard holds newer updates back."""
        return self._updates is not None and self._updates.gate is not None and self._updates.gate.is_held

    @property
    def is_fresh(self) -> bool:
        """Return whether the replica has caught up with the updates and keeps up with them; see `Staleness.is_fresh`."""
        return self._staleness.is_fresh

    def staleness_ms(self) -> int:
        """Return milliseconds since the newest applied delta was published; 0 before a checkpoint was loaded."""
        return self._staleness.staleness_ms()

    def event_staleness_ms(self) -> int:
        """Return milliseconds from the event time that the model has learnt to the wall clock; 0 if it has learnt nothing."""
        return self._staleness.event_staleness_ms()

    def behind_s(self) -> float:
        """Return seconds since the replica last had all updates of the log."""
        return self._staleness.behind_s()

    def follow(self, stop: StopSignal) -> None:
        """Load the first checkpoint, then follow updates or checkpoints until `stop`; with neither, return after the load."""
        stays = self._updates is None and not self._serving.follow_checkpoints
        while not stop.is_set():
            if self._subscriber is None:
                if self.is_ready and stays:
                    return
                if not self.load_newest():
                    self._ask_for_checkpoint()
                    if self.is_held:  # there are no updates that it may have
                        self._staleness.note_unreachable()
                    else:
                        self._staleness.note_read(None)
                    stop.wait(self._serving.checkpoint_poll_s)
            elif not self.apply_updates(_POLL_S):
                stop.wait(_LOG_RETRY_S)
            self._report()

    def load_newest(self) -> bool:
        """Load the newest checkpoint unless it is the one loaded last; return whether it was loaded. The old state serves meanwhile.

        An unexpected error is raised by the first load only: later ones count it, and the state in use serves on.
        """
        try:
            loaded = self._loader.load_newest()
        except Exception as error:
            if self._state is None:
                raise
            self._note_unexpected_load(error)
            return False
        self._load_error = ""
        if loaded is None:
            return False
        # Before the state is there: a reader that sees it must see its age.
        self._staleness.note_load(loaded.checkpoint.meta.saved_ms, loaded.checkpoint.meta.watermark_ms)
        self._state, self._loaded_ms = loaded.state, self._clock.now_ms()
        if self.on_change is not None:
            self.on_change()
        REPLICA_LOADS.inc()
        if self._updates is not None:
            self._subscriber = self._updates.subscriber(loaded)
        _logger.info(
            "loaded %s: model %s, %d rows, updates from offset %d",
            loaded.checkpoint,
            loaded.state.version,
            loaded.state.table.num_rows,
            loaded.updates_offset,
        )
        return True

    def apply_updates(self, timeout_s: float) -> bool:
        """Apply the deltas of one read, which waits up to `timeout_s` for the first; return False if the log cannot be reached.

        Raises:
            TopicMissing: the topic of the updates does not exist.
            TableFull: a table has no free row.
        """
        assert self._subscriber is not None and self._updates is not None and self._end is not None
        began_s = self._clock.monotonic_s()
        try:
            for delta in self._subscriber.read(timeout_s):
                self._state = apply_delta(self.state, delta, self._updates.requester)
                self._staleness.note_delta(delta)
                if self.on_change is not None:
                    self.on_change()
                # Older deltas were late because this replica was: they say nothing of the way from the trainer.
                if self._staleness.has_caught_up or delta.published_ms >= self._loaded_ms:
                    # The trainer's clock now, as far as it is known: the marks are on that clock.
                    self._freshness.note(delta.steps, delta.published_ms + self.staleness_ms(), self._clock.now_ms())
            self._staleness.note_read(self._end.level_s(self._subscriber, began_s))
        except UpdatesRefused as error:
            self._loader.forget()  # the way back may lead to the checkpoint from which it has come
            self._give_up(error)
        except (DeltaGap, DeltaConflict, DigestMismatch, ModelReplaced, OffsetTrimmed, WireError) as error:
            self._give_up(error)
        except (TopicMissing, TableFull):
            raise
        except LogError as error:
            if self._updates.ends_before(self._subscriber.offset):
                self._give_up(error)
            else:
                self._staleness.note_unreachable()
            if self._subscriber is not None and self._log_limit.allows("updates"):
                _logger.warning("updates cannot be read, will try again: %s", error)
            return False
        except Exception as error:
            # A record that no check foresaw would end every replica, at every start. The state in use serves on.
            _logger.exception("unexpected error at offset %d of the updates", self._subscriber.offset)
            self._give_up(error)
        return True

    def close(self) -> None:
        """Close the freshness file. `follow` must have returned."""
        self._freshness.close()

    def _report(self) -> None:
        """Set the gauges; each arm of a split has its own."""
        self._staleness.report()
        if self._state is not None:
            REPLICA_ROWS.labels(arm=self._serving.arm).set(self._state.table.num_rows)
            REPLICA_BYTES.labels(arm=self._serving.arm).set(self._state.table.num_bytes)

    def _ask_for_checkpoint(self) -> None:
        """Ask the trainer for a checkpoint after the updates that could not be applied, if there is a model that waits for one."""
        if self._updates is not None and self._state is not None:
            self._updates.requester.ask_checkpoint(*self._state.next_delta)

    def _note_unexpected_load(self, error: Exception) -> None:
        """Count and log an error of a load; the same one, which returns at every look, once."""
        if repr(error) == self._load_error:
            return
        self._load_error = repr(error)
        REPLICA_FAULTS.labels(reason=type(error).__name__).inc()
        _logger.error("unexpected error of a checkpoint, serving on without it", exc_info=error)

    def _give_up(self, error: Exception) -> None:
        """Stop following the updates until a newer checkpoint is loaded."""
        assert self._subscriber is not None
        offset, self._subscriber = self._subscriber.offset, None
        REPLICA_FAULTS.labels(reason=type(error).__name__).inc()
        _logger.error("updates cannot be followed from offset %d, waiting for a newer checkpoint: %s", offset, error)
