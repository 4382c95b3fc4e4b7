"""The watermark of one partition: the progress of event time in the joiner's two topics.

The event time of a topic (`newest_ms`) is the newest one that `joiner.agreeing_records` of its last RECENT records have reached; it never
moves back. It depends on the times of the topic's records up to there and on nothing else: not on the wall clock, the other topic, or how
far the joiner has read ahead. A few clocks that are ahead do not move it.

The watermark is the event time of the topic with the smaller one, less `max_out_of_orderness_s`. An idle topic (no record for
`idle_timeout_s` of wall clock) does not hold it back. If both are idle, it moves with the wall clock from the newest record on: those that
would agree with it may come in an hour. A record with a time ahead of the wall clock counts as the wall clock. The watermark never moves
back. It says when windows close; rules.py says what comes of a record by the event time of its topic.

**Jumps.** The intake refuses records ahead of the wall clock by more than `log.max_clock_skew_s`. In a backlog, where the wall clock says
nothing, it refuses one more than a day ahead of its topic unless those behind it agree (`is_jump`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from monolith_py.errors import ClockStepped
from monolith_streaming.joiner.request import NEVER_MS

# Longest gap between neighbours in a healthy stream.
MAX_JUMP_MS = 24 * 3600 * 1000
# Records of a topic that tell how far its event time is.
RECENT = 8


class InputTopic(IntEnum):
    """The two topics that the joiner reads."""

    IMPRESSIONS = 0
    ACTIONS = 1


@dataclass
class WatermarkState:
    """The part of a watermark that survives a restart. Times are milliseconds since the Unix epoch."""

    watermark_ms: int | None = None
    newest_ms: list[int | None] = field(default_factory=lambda: [None, None])  # by InputTopic: event time
    newest_at_ms: int = 0  # wall clock of the last advance of one of them
    recent_ms: list[list[int]] = field(default_factory=lambda: [[], []])  # by InputTopic: times of the last RECENT records


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

    def __init__(self, max_out_of_orderness_ms: int, idle_timeout_s: float, num_agreeing: int, state: WatermarkState, now_s: float) -> None:
        self._max_out_of_orderness_ms, self._idle_timeout_s = max_out_of_orderness_ms, idle_timeout_s
        self._num_agreeing = num_agreeing
        self._empty_since_s: list[float | None] = [now_s, now_s]
        self.state = state

    def note_read(self, input_topic: InputTopic, num_records: int, now_s: float) -> None:
        """Record that `input_topic` had `num_records` valid ones to process after a read; invalid ones are no sign of life."""
        if num_records:
            self._empty_since_s[input_topic] = None
        elif self._empty_since_s[input_topic] is None:
            self._empty_since_s[input_topic] = now_s

    def clock_ms(self, input_topic: InputTopic) -> int:
        """Return the event time of a topic, as far as its records before the next one tell; NEVER_MS at its beginning."""
        newest_ms = self.state.newest_ms[input_topic]
        return NEVER_MS if newest_ms is None else newest_ms

    def is_jump(self, input_topic: InputTopic, time_ms: int) -> bool:
        """Return whether a record is too far ahead of its topic to be of a sound clock, unless those behind it agree."""
        newest_ms = self.state.newest_ms[input_topic]
        return newest_ms is not None and time_ms > newest_ms + MAX_JUMP_MS

    def observe(self, input_topic: InputTopic, time_ms: int, wall_ms: int) -> None:
        """Take the event time of the next record of a topic."""
        state = self.state
        recent_ms = state.recent_ms[input_topic] = [*state.recent_ms[input_topic][1 - RECENT :], time_ms]
        if len(recent_ms) < self._num_agreeing:
            return
        agreed_ms = sorted(recent_ms)[-self._num_agreeing]
        if agreed_ms > self.clock_ms(input_topic):
            state.newest_ms[input_topic], state.newest_at_ms = agreed_ms, wall_ms

    def advance(self, now_s: float) -> int | None:
        """Move the watermark to `now_s` and return it, None before the first event."""
        watermark_ms = self._computed(now_s)
        state = self.state
        if watermark_ms is not None and (state.watermark_ms is None or watermark_ms > state.watermark_ms):
            state.watermark_ms = watermark_ms
        return state.watermark_ms

    def _computed(self, now_s: float) -> int | None:
        newest_ms = self._newest_of_both()
        if newest_ms is None:
            return None
        idle_for_s = [0.0 if since is None else now_s - since for since in self._empty_since_s]
        times = [time_ms for time_ms, idle in zip(self.state.newest_ms, idle_for_s, strict=True) if idle < self._idle_timeout_s]
        if not times:
            return newest_ms + int(min(idle_for_s) * 1000) - self._max_out_of_orderness_ms
        if None in times:
            return None
        return min(time_ms for time_ms in times if time_ms is not None) - self._max_out_of_orderness_ms

    def _newest_of_both(self) -> int | None:
        """Return the time of the newest record, at most the wall clock at it; of a topic whose records do not agree yet, of the oldest."""
        state = self.state
        times = []
        for newest, recent in zip(state.newest_ms, state.recent_ms, strict=True):
            if newest is not None:
                times.append(max([newest, *(min(time_ms, state.newest_at_ms) for time_ms in recent)]))
            elif recent:
                times.append(min(recent))
        return max(times, default=None)
