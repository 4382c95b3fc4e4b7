"""Requests of replicas to the trainer: for a full dense state after a gap, for a checkpoint after updates that cannot be applied."""

from __future__ import annotations

import logging

from google.protobuf.message import DecodeError

from monolith_py.clock import Clock
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.pb import parameter_sync_pb2 as pb

_logger = logging.getLogger(__name__)

# Requests of one read: if there are more, the rest is read the next time.
_MAX_REQUESTS = 1000


class DenseRequests:
    """Requests as the trainer reads them. Any of them asks for a full dense state."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log, self._topic = log, topic
        self._seen: int | None = None  # end offset at the last call
        self._wants_checkpoint = False

    def take(self) -> bool:
        """Return whether there are new requests since the last call; True at the first call, False if the log cannot be reached."""
        try:
            end = self._log.end_offset(self._topic)
            if self._seen is not None and end > self._seen:
                self._wants_checkpoint |= self._find_checkpoint_request(self._seen)
        except LogError as error:
            _logger.warning("requests of replicas cannot be read, will try again: %s", error)
            return False
        seen, self._seen = self._seen, end
        return end != seen

    def take_checkpoint(self) -> bool:
        """Return whether a replica has asked for a checkpoint before the last `take`, once. Another thread may call it."""
        wanted, self._wants_checkpoint = self._wants_checkpoint, False
        return wanted

    def _find_checkpoint_request(self, offset: int) -> bool:
        found = False
        for record in self._log.read(self._topic, 0, offset, _MAX_REQUESTS):
            try:
                found |= pb.DenseRequest.FromString(record.value).need == pb.NEED_CHECKPOINT
            except (DecodeError, TypeError):
                _logger.warning("%r offset %d: a request of a replica must be a DenseRequest message", self._topic, record.offset)
        return found


class DenseRequester:
    """Requests as a replica makes them: at most one of a kind per `interval_s`; a refusal of the log is only logged. For one thread."""

    def __init__(self, log: Log, topic: str, job: str, clock: Clock, interval_s: float) -> None:
        self._log, self._topic, self._job = log, topic, job
        self._clock, self._interval_s = clock, interval_s
        self._due_s = self._checkpoint_due_s = clock.monotonic_s()

    def ask(self, generation: int, seq: int, fingerprint: int) -> None:
        """Append a request: delta (generation, seq) does not fit the state of `fingerprint`. No-op within the interval."""
        if self._clock.monotonic_s() < self._due_s:
            return
        self._due_s = self._clock.monotonic_s() + self._interval_s
        self._append(pb.DenseRequest(job=self._job, generation=generation, seq=seq, fingerprint=fingerprint))

    def ask_checkpoint(self, generation: int, seq: int) -> None:
        """Append a request for a checkpoint that ends after delta (generation, seq). No-op within the interval."""
        if self._clock.monotonic_s() < self._checkpoint_due_s:
            return
        self._checkpoint_due_s = self._clock.monotonic_s() + self._interval_s
        self._append(pb.DenseRequest(job=self._job, generation=generation, seq=seq, need=pb.NEED_CHECKPOINT))

    def answered(self) -> None:
        """Note that an update fitted, so that the next gap is requested at once."""
        self._due_s = self._clock.monotonic_s()

    def _append(self, request: pb.DenseRequest) -> None:
        try:
            self._log.append(self._topic, [request.SerializeToString()], time_ms=self._clock.now_ms())
        except LogError as error:
            _logger.warning("request to the trainer not made, will try again: %s", error)
