"""Clocks: the wall clock of a process, and one that tests move by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What logic below the entry points reads time from."""

    def now_ms(self) -> int:
        """Return wall-clock milliseconds since the Unix epoch."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go backwards, for intervals."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Wait for `duration_s` seconds."""
        ...


class SystemClock:
    """The clock of the machine.

    >>> SystemClock().now_ms() > 1_700_000_000_000
    True
    """

    def now_ms(self) -> int:
        """Return wall-clock milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds that never go backwards, for intervals."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Wait for `duration_s` seconds."""
        time.sleep(duration_s)


class ManualClock:
    """A clock that moves only when told to; `sleep` moves it.

    >>> clock = ManualClock(start_ms=1_000)
    >>> clock.advance(0.5)
    >>> clock.now_ms()
    1500
    """

    def __init__(self, start_ms: int = 0) -> None:
        self._ms = float(start_ms)

    def now_ms(self) -> int:
        """Return the milliseconds it was moved to."""
        return int(self._ms)

    def monotonic_s(self) -> float:
        """Return the same time in seconds."""
        return self._ms / 1000.0

    def sleep(self, duration_s: float) -> None:
        """Move forward by `duration_s` seconds at once."""
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        """Move forward by `duration_s` seconds."""
        self._ms += duration_s * 1000.0
