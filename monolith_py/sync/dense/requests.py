"""Requests for a full dense state, appended by a replica after a gap and counted by the trainer."""

from __future__ import annotations

import logging

from monolith_py.clock import Clock
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.pb import parameter_sync_pb2 as pb

_logger = logging.getLogger(__name__)


class DenseRequests:
    """Requests as the trainer reads them: only their number matters, their fields are for people."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log, self._topic = log, topic
        self._seen: int | None = None  # end offset at the last call

    def take(self) -> bool:
        """Return whether there are new requests since the last call; True at the first call, False if the log cannot be reached."""
        try:
            end = self._log.end_offset(self._topic)
        except LogError as error:
            _logger.warning("requests for a full dense state cannot be read, will try again: %s", error)
            return False
        seen, self._seen = self._seen, end
        return end != seen


class DenseRequester:
    """Requests as a replica makes them: at most one per `interval_s`; a refusal of the log is only logged. For one thread."""

    def __init__(self, log: Log, topic: str, job: str, clock: Clock, interval_s: float) -> None:
        self._log, self._topic, self._job = log, topic, job
        self._clock, self._interval_s = clock, interval_s
        self._due_s = clock.monotonic_s()

    def ask(self, generation: int, seq: int, fingerprint: int) -> None:
        """Append a request: delta (generation, seq) does not fit the state of `fingerprint`. No-op within the interval."""
        if self._clock.monotonic_s() < self._due_s:
            return
        self._due_s = self._clock.monotonic_s() + self._interval_s
        request = pb.DenseRequest(job=self._job, generation=generation, seq=seq, fingerprint=fingerprint)
        try:
            self._log.append(self._topic, [request.SerializeToString()], time_ms=self._clock.now_ms())
        except LogError as error:
            _logger.warning("full dense state not requested, will try again: %s", error)

    def answered(self) -> None:
        """Note that an update fitted, so that the next gap is requested at once."""
        self._due_s = self._clock.monotonic_s()
