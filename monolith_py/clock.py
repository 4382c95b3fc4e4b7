"""Clocks: the clock of the machine, and one for tests."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time for all code below the entry points."""

    def now_ms(self) -> int:
        """Return wall-clock milliseconds since the Unix epoch."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds of a monotonic clock, for intervals."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Wait for `duration_s` seconds."""
        ...


class SystemClock:
    """Clock of the machine.

    >>> SystemClock().now_ms() > 1_700_000_000_000
    True
    """

    def now_ms(self) -> int:
        """Return wall-clock milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds of a monotonic clock, for intervals."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Wait for `duration_s` seconds."""
        time.sleep(duration_s)


class ManualClock:
    """Clock for tests, moved by `advance` and `sleep` only.

    >>> clock = ManualClock(start_ms=1_000)
    >>> clock.advance(0.5)
    >>> clock.now_ms()
    1500
    """

    def __init__(self, start_ms: int = 0) -> None:
        self._ms = float(start_ms)

    def now_ms(self) -> int:
        """Return the current time in milliseconds."""
        return int(self._ms)

    def monotonic_s(self) -> float:
        """Return the current time in seconds."""
        return self._ms / 1000.0

    def sleep(self, duration_s: float) -> None:
        """Advance by `duration_s` without waiting."""
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        """Advance by `duration_s` seconds."""
        self._ms += duration_s * 1000.0
