"""One partition of the log, joined in memory by the joiner's core; writes nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.examples import ExampleKind
from monolith_py.data.schema import Schema
from monolith_py.io import Log
from monolith_py.io.codec import decode_action
from monolith_py.io.codec.impression_view import ImpressionView
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.core_partition import CorePartition, Judge, core_settings
from monolith_streaming.joiner.position import Position, Progress
from monolith_streaming.joiner.reader import Reader
from monolith_streaming.joiner.request import Emission, Request
from monolith_streaming.joiner.rules import FOREVER_MS, Rules
from monolith_streaming.joiner.waiting import WaitingRequest


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
# Kinds of emissions in the core; None: a negative that was sampled away.
_KINDS = {int(kind): kind for kind in ExampleKind} | {255: None}


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
        self._joining = joining
        job, topics = joining.job, Topics.of(joining.job.log)
        settings = core_settings(job, joining.rules, Schema.of(job).dense_dims)
        settings.idle_timeout_s = _IDLE_S
        starts = [joining.log.start_offset(topic, number) for topic in (topics.impressions, topics.actions)]
        self._joiner = CorePartition(settings, joining.rules, Position(Progress(starts), 0), 0.0)
        self._joiner.core.report_arrived()
        self._joiner.core.set_max_bytes(0)  # the impressions are here
        clock = ManualClock(joining.now_ms)
        self._reader = Reader(job, joining.log, Judge(job, joining.patterns), clock, (number, self._joiner))
        # Offset of its impression -> request, and the number of its first candidate, as long as the joiner remembers it.
        self._requests: dict[int, tuple[int, WaitingRequest]] = {}
        self._forgets: deque[tuple[int, int]] = deque()  # (watermark of the forgetting, offset)
        self.is_done = False

    @property
    def reached_ms(self) -> int:
        """Return the event time reached."""
        return FOREVER_MS if self.is_done else self._joiner.position.watermark.watermark_ms or 0

    def step(self, next_number: int) -> Joined:
        """Join the records of one read; candidates that arrive are numbered from `next_number` on. At the end close all windows."""
        joined, core = Joined(), self._joiner.core
        self._reader.fill(0.0)
        num_records, has_more = self._run(next_number, joined)
        while has_more:
            num, has_more = self._run(next_number, joined)
            num_records += num
        if num_records == 0 or self.reached_ms >= self._joining.rules.forget_ms(self._joining.end_ms):
            is_open = True
            while is_open:
                is_open = core.close_some()
                self._take(next_number, joined)
            self.is_done = True
        while self._forgets and self._forgets[0][0] <= self.reached_ms:
            self._requests.pop(self._forgets.popleft()[1], None)
        return joined

    def _run(self, next_number: int, joined: Joined) -> tuple[int, bool]:
        """Join what was read ahead; return the number of records, and whether more windows are due."""
        result = self._joiner.run(_IDLE_S, self._joining.now_ms)
        self._take(next_number, joined)
        return result

    def _take(self, next_number: int, joined: Joined) -> None:
        """Move the results of the core's step to `joined` and end the step."""
        core, end_ms = self._joiner.core, self._joining.end_ms
        if joined.arrived:
            last = joined.arrived[-1]
            next_number = last.number + len(last.impression.item_ids)
        for offset, value in core.arrived():
            impression = ImpressionView(value)
            if impression.time_ms < end_ms:
                self._see_arrival(offset, impression, next_number, joined)
                next_number += len(impression.item_ids)
        joined.known += self._known()
        # Actions after the end may belong to requests that were passed over.
        late = sum(decode_action(value).time_ms < end_ms for _, _, value, _ in core.refused_actions())
        joined.num_refused += late + len(core.too_late()) + len(core.refused_records())
        core.clear_step()

    def _see_arrival(self, offset: int, impression: ImpressionView, number: int, joined: Joined) -> None:
        request = Request(impression.request_id, impression.time_ms, item_ids=impression.item_ids)
        self._requests[offset] = number, WaitingRequest(request, offset, impression)
        self._forgets.append((self._joining.rules.forget_ms(impression.time_ms), offset))
        joined.arrived.append(Arrived(number, impression))

    def _known(self) -> list[Known]:
        """Return the emissions of the core's step, without those of requests that were passed over."""
        kinds, firsts, labels = (column.tolist() for column in self._joiner.core.emissions())
        places = (column.tolist() for column in self._joiner.core.places_of_emissions())
        known = []
        for offset, row, rate, known_ms, kind, is_first, bits in zip(*places, kinds, firsts, labels, strict=True):
            if offset not in self._requests:
                continue
            number, waiting = self._requests[offset]
            emission = Emission(row, _KINDS[kind], bits, known_ms, bool(is_first), rate)
            known.append(Known(number + row, waiting, emission))
        return known
