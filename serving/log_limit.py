"""Limit of repeated log lines: a client or a store that misbehaves thousands of times a second must not fill the log."""

from __future__ import annotations

from monolith_py.clock import Clock

# Least time between two lines of one kind. Metrics count every case.
INTERVAL_S = 10.0


class LogLimit:
    """Allows one line of each kind in `interval_s`. Safe for threads: at worst, two lines of a kind appear.

    >>> from monolith_py.clock import ManualClock
    >>> clock = ManualClock()
    >>> limit = LogLimit(clock)
    >>> limit.allows("kv"), limit.allows("kv")
    (True, False)
    >>> clock.advance(INTERVAL_S)
    >>> limit.allows("kv")
    True
    """

    def __init__(self, clock: Clock, interval_s: float = INTERVAL_S) -> None:
        self._clock, self._interval_s = clock, interval_s
        self._last_s: dict[str, float] = {}

    def allows(self, kind: str) -> bool:
        """Return whether a line of `kind` may be written now. The kinds must be few."""
        now_s = self._clock.monotonic_s()
        last_s = self._last_s.get(kind)
        if last_s is not None and now_s < last_s + self._interval_s:
            return False
        self._last_s[kind] = now_s
        return True
