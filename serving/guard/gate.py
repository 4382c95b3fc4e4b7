"""Gate of a guarded replica: it reads updates only as far as the guard has judged them good."""

from __future__ import annotations

import logging
from typing import Any, cast

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.errors import LogError, OffsetTrimmed, UpdatesRefused, WireError
from monolith_py.io import Log, Record
from monolith_py.io.log.topics import Topics
from monolith_py.observe.metrics import REPLICA_UNGUARDED, REPLICA_UPDATES_HELD
from monolith_py.sync.verdicts import Verdict, decode_verdict, has_no_record

_logger = logging.getLogger(__name__)

_MAX_VERDICTS = 1000
_NONE_YET = Verdict(0)


class Gate:
    """The log of updates as a guarded replica sees it: `read` ends where the verdicts end. For one thread, but for `is_held`.

    A guard that says nothing for `serving.guard_silence_s`, while updates wait for it, is taken for dead: the replica then follows all
    updates until the next verdict. Held updates wait for ever.
    """

    def __init__(self, job: JobConfig, log: Log, clock: Clock) -> None:
        topics = Topics.of(job.log)
        self._log, self._clock, self._silence_s = log, clock, job.serving.guard_silence_s
        self._updates, self._topic, self._arm = topics.updates, topics.verdicts, job.serving.arm
        self._offset = max(log.start_offset(self._topic), log.end_offset(self._topic) - 1)
        self._verdict = _NONE_YET
        self._waits_since_s: float | None = None  # for a verdict on updates that are there
        self._is_open = False  # the guard is silent
        self._holes: dict[int, int] = {}  # end -> start of offsets without a record, as Kafka has at the end of a transaction

    def as_log(self) -> Log:
        """Return the log whose `read` of updates passes the gate."""
        return cast(Log, _GatedLog(self._log, self))

    @property
    def is_held(self) -> bool:
        """Return whether the guard holds updates back."""
        return self._verdict.held

    def allows(self, offset: int) -> bool:
        """Return whether a checkpoint with the updates before `offset` may serve; False if the log cannot be reached."""
        try:
            self._catch_up(0.0)
            if self._verdict is _NONE_YET:
                self._note_waiting()
            offset = self._last_of(offset)
        except LogError as error:
            _logger.warning("verdicts cannot be read, will try again: %s", error)
            return False
        return self._verdict.allows(offset) or (self._is_open and not self._verdict.has_refused(offset))

    def read(self, offset: int, max_records: int, timeout_s: float) -> list[Record]:
        """Return the next updates from `offset` on that were judged good; wait up to `timeout_s` for the first.

        Raises:
            UpdatesRefused: the updates before `offset` were refused: the replica needs another state.
            OffsetTrimmed, LogError: from the log.
        """
        self._catch_up(0.0)
        if not self._may_read(offset):
            self._catch_up(timeout_s)
        verdict = self._verdict
        if verdict.has_refused(offset):
            offset = self._last_of(offset)
        if verdict.has_refused(offset):
            raise UpdatesRefused(
                f"{self._updates!r} must be followed on good updates, got offset {offset} in those that the guard has refused"
            )
        if not self._may_read(offset):
            self._note_waiting()
            if not self._is_open:
                return []
        resumed: int | None = verdict.resume(offset)
        while resumed is not None:
            offset = resumed
            records = self._log.read(self._updates, 0, offset, max_records, timeout_s)
            # Refused deltas may begin behind a hole.
            resumed = next((end for start, end in verdict.refused if records and offset <= start <= records[0].offset), None)
        stops = [start for start, _ in verdict.refused if start >= offset]
        stop = min([*stops, *([] if self._is_open else [verdict.good_until])], default=None)
        return records if stop is None else [record for record in records if record.offset < stop]

    def _may_read(self, offset: int) -> bool:
        return self._verdict.resume(offset) < self._verdict.good_until

    def _catch_up(self, timeout_s: float) -> None:
        """Read the verdicts up to the newest; wait up to `timeout_s` for one."""
        while True:
            try:
                records = self._log.read(self._topic, 0, self._offset, _MAX_VERDICTS, timeout_s)
            except OffsetTrimmed as error:
                self._offset = error.start
                continue
            if not records:
                return
            self._offset, timeout_s = records[-1].offset + 1, 0.0
            try:
                self._take(decode_verdict(records[-1].value))
            except WireError as error:
                _logger.warning("%r offset %d: %s", self._topic, records[-1].offset, error)

    def _take(self, verdict: Verdict) -> None:
        if verdict.held and not self._verdict.held:
            _logger.error("updates from offset %d on are held by the guard: %s", verdict.good_until, verdict.reason)
        if self._verdict.held and not verdict.held:
            _logger.info("updates are no longer held, %s passed over", verdict.refused[-1:] or "none")
        if self._is_open:
            _logger.info("the guard speaks again")
        self._verdict, self._waits_since_s, self._is_open = verdict, None, False
        REPLICA_UPDATES_HELD.labels(arm=self._arm).set(verdict.held)
        REPLICA_UNGUARDED.labels(arm=self._arm).set(0)

    def _note_waiting(self) -> None:
        """Note that updates wait for a verdict; open the gate if they have for too long."""
        if self._verdict.held or self._is_open or not self._silence_s:
            return
        now_s = self._clock.monotonic_s()
        if self._waits_since_s is None:
            if not has_no_record(self._log, self._updates, self._verdict.good_until, self._log.end_offset(self._updates)):
                self._waits_since_s = now_s
        elif now_s - self._waits_since_s >= self._silence_s:
            _logger.error("the guard has said nothing for %g s while updates wait: following all updates", self._silence_s)
            self._is_open = True
            REPLICA_UNGUARDED.labels(arm=self._arm).set(1)

    def _last_of(self, offset: int) -> int:
        """Return the place in the verdict from which up to `offset` there is no record, so both have the same state; else `offset`."""
        place = self._verdict.place_before(offset)
        if place != offset and self._holes.get(offset) != place:
            if not has_no_record(self._log, self._updates, place, offset):
                return offset
            self._holes = {offset: place}
        return place


class _GatedLog:
    """A log of which `read` passes a gate; all else is the log's own."""

    def __init__(self, log: Log, gate: Gate) -> None:
        self._log, self._gate = log, gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        """Return the next records of the updates that may be applied."""
        return self._gate.read(offset, max_records, timeout_s)
