"""The watermark of one partition: the progress of event time in the joiner's two topics.

It is the newest event time less `max_out_of_orderness_s`, of the topic with the smaller one. An idle topic (no record for
`idle_timeout_s` of wall clock) does not hold it back; if both are idle, it moves with the wall clock. It never moves back.

**Jumps.** One record with a broken clock must not close every window. The intake refuses those ahead of the wall clock by more than
`log.max_clock_skew_s`, and no record moves the watermark past the wall clock. In a backlog, where the wall clock says nothing, a record
does not move it past those behind it (`observe`). A record more than a day ahead of the newest event (plus the wall clock since then) is
refused. After MAX_REFUSALS refusals in a row in its topic it is accepted: the stream itself has moved on, for instance after days of
silence in a backlog. Nothing is refused before two records in a row agree to a day: the first record of a stream may have the broken clock.
The day counts from the newest record itself, not from those behind it: one from 1970 in a backlog does not make all before it jumps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from monolith_py.errors import ClockStepped

# Longest gap between neighbours in a healthy stream.
MAX_JUMP_MS = 24 * 3600 * 1000
# More records in a row do not share a broken clock by chance.
MAX_REFUSALS = 3


class InputTopic(IntEnum):
    """The two topics that the joiner reads."""

    IMPRESSIONS = 0
    ACTIONS = 1


@dataclass
class WatermarkState:
    """The part of a watermark that survives a restart. Times are milliseconds since the Unix epoch."""

    watermark_ms: int | None = None
    newest_ms: list[int | None] = field(default_factory=lambda: [None, None])  # by InputTopic: newest event time
    newest_at_ms: int = 0  # wall clock of the last advance of the newest event time of both
    refusals: list[int] = field(default_factory=lambda: [0, 0])  # by InputTopic: records refused in a row
    is_confirmed: bool = False  # whether a second record agreed with the newest event time
    furthest_seen_ms: int | None = None  # newest event time of a record that was not refused, without the limit of those behind it


def check_wall_clock(state: WatermarkState, wall_ms: int, skew_ms: int) -> None:
    """Check that the wall clock did not go back by more than `skew_ms`, or is known to be right now.

    It is if it agrees with the newest event: then the clock was ahead before, as that of a machine that starts on local time.

    Raises:
        ClockStepped: it went back, so sound records would be refused.
    """
    if wall_ms >= state.newest_at_ms - skew_ms:
        return
    newest_ms = max((time_ms for time_ms in state.newest_ms if time_ms is not None), default=None)
    if newest_ms is None or abs(wall_ms - newest_ms) > skew_ms:
        rule = f"must not go back by more than log.max_clock_skew_s, was {state.newest_at_ms} ms, got {wall_ms} ms"
        raise ClockStepped(f"the wall clock {rule}: set it right; if it is right now and was ahead before, start with --force")


class Watermark:
    """Follows event time. `now_s` is a monotonic clock in seconds."""

    def __init__(self, max_out_of_orderness_ms: int, idle_timeout_s: float, state: WatermarkState, now_s: float) -> None:
        self._max_out_of_orderness_ms, self._idle_timeout_s = max_out_of_orderness_ms, idle_timeout_s
        self._empty_since_s: list[float | None] = [now_s, now_s]
        self.restore(state)

    def restore(self, state: WatermarkState) -> None:
        """Go on from `state`."""
        self.state = state
        # Newest event time of both topics.
        self.newest_ms = max((time_ms for time_ms in state.newest_ms if time_ms is not None), default=None)

    def note_read(self, input_topic: InputTopic, num_records: int, now_s: float) -> None:
        """Record that `input_topic` had `num_records` valid ones to process after a read; invalid ones are no sign of life."""
        if num_records:
            self._empty_since_s[input_topic] = None
        elif self._empty_since_s[input_topic] is None:
            self._empty_since_s[input_topic] = now_s

    def observe(self, input_topic: InputTopic, time_ms: int, wall_ms: int, limit_ms: int | None = None) -> str | None:
        """Advance to the event time of one record, at most to `limit_ms`; return the rule that the time breaks, or None."""
        state = self.state
        newest_ms, seen_ms = self.newest_ms, state.furthest_seen_ms if state.furthest_seen_ms is not None else self.newest_ms
        if seen_ms is not None:
            furthest_ms = seen_ms + MAX_JUMP_MS + max(0, wall_ms - state.newest_at_ms)
            if time_ms > furthest_ms and state.is_confirmed and state.refusals[input_topic] < MAX_REFUSALS:
                state.refusals[input_topic] += 1
                return f"time_ms must be at most {MAX_JUMP_MS} ms ahead of the newest event {seen_ms}, got {time_ms}"
            state.is_confirmed |= seen_ms - MAX_JUMP_MS <= time_ms <= furthest_ms
        state.refusals[input_topic] = 0
        time_ms = min(time_ms, wall_ms)
        state.furthest_seen_ms = time_ms if seen_ms is None else max(seen_ms, time_ms)
        time_ms = min(time_ms, time_ms if limit_ms is None else limit_ms)
        if newest_ms is None or time_ms > newest_ms:
            self.newest_ms, state.newest_at_ms = time_ms, wall_ms
        of_topic = state.newest_ms[input_topic]
        if of_topic is None or time_ms > of_topic:
            state.newest_ms[input_topic] = time_ms
        return None

    def forget_wall_clock(self, wall_ms: int) -> None:
        """Believe that the wall clock is right now, whatever it was at the last advance."""
        self.state.newest_at_ms = min(self.state.newest_at_ms, wall_ms)

    def advance(self, now_s: float) -> int | None:
        """Move the watermark to `now_s` and return it, None before the first event."""
        watermark_ms = self._computed(now_s)
        state = self.state
        if watermark_ms is not None and (state.watermark_ms is None or watermark_ms > state.watermark_ms):
            state.watermark_ms = watermark_ms
        return state.watermark_ms

    def _computed(self, now_s: float) -> int | None:
        newest_ms = self.newest_ms
        if newest_ms is None:
            return None
        idle_for_s = [0.0 if since is None else now_s - since for since in self._empty_since_s]
        times = [time_ms for time_ms, idle in zip(self.state.newest_ms, idle_for_s, strict=True) if idle < self._idle_timeout_s]
        if not times:
            return newest_ms + int(min(idle_for_s) * 1000) - self._max_out_of_orderness_ms
        if None in times:
            return None
        return min(time_ms for time_ms in times if time_ms is not None) - self._max_out_of_orderness_ms
