"""One partition of the log, joined in memory by the joiner's own state machine; writes nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.io import Log, MemoryKv
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.intake import Intake, SeenImpression
from monolith_streaming.joiner.position import Position, Progress
from monolith_streaming.joiner.request import Emission, SeenAction
from monolith_streaming.joiner.request_joiner import RequestJoiner
from monolith_streaming.joiner.rules import FOREVER_MS, Rules
from monolith_streaming.joiner.waiting import WaitingRequest
from monolith_streaming.joiner.watermark import Watermark


class Arrived(NamedTuple):
    """A request, and the number of its first candidate; the others follow."""

    number: int
    impression: ImpressionView


class Known(NamedTuple):
    """An emission, and the number of its candidate."""

    number: int
    waiting: WaitingRequest
    emission: Emission


@dataclass
class Joined:
    """Result of a step of one partition."""

    arrived: list[Arrived] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    num_refused: int = 0  # records that are malformed, too late, or actions without a candidate


# A topic without a record left counts as idle at once: its clock stands at 0, that of the watermark at this.
_IDLE_S = 1.0


@dataclass(frozen=True)
class Joining:
    """Parts that all partitions share."""

    log: Log
    job: JobConfig
    rules: Rules
    patterns: WirePatterns
    now_ms: int  # wall clock; events ahead of it are refused
    end_ms: int  # impressions from here on are passed over


class PartitionJoiner:
    """Joins one partition from its first record on, as the online joiner does that works off a backlog.

    A topic that was read to its end does not hold the watermark back. `reached_ms`: every emission with an earlier `known_ms` was returned,
    as far as no event is later than `max_out_of_orderness_s`.
    """

    def __init__(self, joining: Joining, number: int) -> None:
        self._joining, self._number = joining, number
        self._kv = MemoryKv()
        self._joiner = RequestJoiner(joining.rules, self._kv, "")
        topics = Topics.of(joining.job.log)
        inputs = (topics.impressions, topics.actions)
        self._position = Position(Progress([joining.log.start_offset(topic, number) for topic in inputs]), 0)
        num_agreeing = joining.job.joiner.agreeing_records
        self._watermark = Watermark(joining.rules.max_out_of_orderness_ms, _IDLE_S, num_agreeing, self._position.watermark, 0.0)
        clock = ManualClock(joining.now_ms)
        self._intake = Intake(joining.job, joining.log, joining.rules, joining.patterns, clock)
        self._numbers: dict[str, int] = {}  # request id -> number of its first candidate, as long as the joiner remembers the request
        self._forgets: deque[tuple[int, str]] = deque()  # (watermark of the forgetting, request id)
        self.is_done = False

    @property
    def reached_ms(self) -> int:
        """Return the event time reached."""
        return FOREVER_MS if self.is_done else self._position.watermark.watermark_ms or 0

    def step(self, next_number: int) -> Joined:
        """Join the records of one read; candidates that arrive are numbered from `next_number` on. At the end close all windows."""
        joined, joiner, watermark = Joined(), self._joiner, self._watermark
        num_records = 0
        self._intake.fill(self._number, self._position, watermark, 0.0)
        joiner.load(self._intake.request_ids(self._number), watermark.advance(_IDLE_S))
        for event in self._intake.events(self._number, self._position, watermark):
            num_records += 1
            if isinstance(event, SeenImpression):
                next_number = self._see_impression(event, next_number, joined)
            elif isinstance(event, SeenAction):
                joiner.see_action(event)
            elif event is not None:
                joined.num_refused += 1
            watermark_ms = watermark.advance(_IDLE_S)
            if watermark_ms is not None and joiner.is_due(watermark_ms):
                self._advance(watermark_ms, joined)
        if num_records == 0 or self.reached_ms >= self._joining.rules.forget_ms(self._joining.end_ms):
            self._commit(joined)
            for _ in joiner.close_all():
                self._commit(joined)
            self.is_done = True
        self._commit(joined)
        return joined

    def _see_impression(self, seen: SeenImpression, next_number: int, joined: Joined) -> int:
        """Process an impression, unless its request is known or it is after the end; return the next number."""
        impression = seen.impression
        request_id, time_ms = impression.request_id, impression.time_ms
        if request_id in self._numbers or time_ms >= self._joining.end_ms:
            return next_number
        num_refused = len(self._joiner.too_late)
        self._numbers[request_id] = next_number
        self._joiner.see_impression(seen, self._position.watermark.watermark_ms)
        if len(self._joiner.too_late) > num_refused:
            del self._numbers[request_id]
            return next_number
        self._forgets.append((self._joining.rules.forget_ms(time_ms), request_id))
        joined.arrived.append(Arrived(next_number, impression))
        return next_number + len(impression.item_ids)

    def _advance(self, watermark_ms: int, joined: Joined) -> None:
        while self._joiner.advance(watermark_ms):
            self._commit(joined)

    def _commit(self, joined: Joined) -> None:
        """Move the joiner's emissions to `joined`, and its changes to the store in memory."""
        joiner = self._joiner
        joined.known += [Known(self._numbers[pair[0].request.request_id] + pair[1].row, *pair) for pair in joiner.emitted]
        end_ms = self._joining.end_ms  # actions after it may belong to requests that were passed over
        joined.num_refused += sum(seen.action.time_ms < end_ms for seen, _ in joiner.refused) + len(joiner.too_late)
        self._kv.write(*joiner.changes())
        joiner.clear_step()
        while self._forgets and self._forgets[0][0] <= self.reached_ms:
            self._numbers.pop(self._forgets.popleft()[1], None)
