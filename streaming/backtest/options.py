"""Options of a backtest: the range, the order of learning, and the arms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from monolith_py.errors import ConfigError


@dataclass(frozen=True)
class Arm:
    """A served model: it takes over the trainer's state every `refresh_s` seconds of event time.

    0: always. None: never after the start of scoring. The takeovers are at the multiples of `refresh_s` since the epoch: at every full hour
    for 3600, at 00:00 UTC for 86400.

    >>> Arm.parse("ten=600")
    Arm(name='ten', refresh_s=600.0)
    """

    name: str
    refresh_s: float | None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise ConfigError(f"arm.name must be letters, digits, '_', '.' or '-', got {self.name!r}")
        if self.refresh_s is not None and not (self.refresh_s == 0 or 0.001 <= self.refresh_s < float("inf")):
            raise ConfigError(f"refresh_s of arm {self.name!r} must be 0 or at least 0.001 s, got {self.refresh_s!r}")

    @property
    def refresh_ms(self) -> int | None:
        """Return `refresh_s` in milliseconds."""
        return None if self.refresh_s is None else round(self.refresh_s * 1000)

    @staticmethod
    def parse(text: str) -> Arm:
        """Return the arm of a command-line option: the name of a known arm, or NAME=SECONDS.

        Raises:
            ConfigError: it is neither.
        """
        name, equals, seconds = text.partition("=")
        known = {arm.name: arm for arm in (LIVE, HOURLY, DAILY, FROZEN)}
        try:
            return Arm(name, float(seconds)) if equals else known[name]
        except (KeyError, ValueError):
            raise ConfigError(f"arm must be one of {sorted(known)} or NAME=SECONDS, got {text!r}") from None


LIVE = Arm("live", 0.0)
HOURLY = Arm("hourly", 3600.0)
DAILY = Arm("daily", 86400.0)
FROZEN = Arm("frozen", None)


@dataclass(frozen=True)
class BacktestOptions:
    """Options of a backtest. Times are event time."""

    # First request that is scored; earlier ones are history: learnt, not scored.
    start_ms: int
    # End of the scored requests, exclusive; None takes all.
    end_ms: int | None = None
    # service: an example is learnt when the online joiner would emit it (`Emission.known_ms`). time: at the time of its impression, as from
    # a replay sorted by time, so its labels are known at once.
    order: Literal["service", "time"] = "service"
    # as_joined: examples that became known within a slice are learnt at once, however few. even: only full batches are learnt.
    batches: Literal["as_joined", "even"] = "as_joined"
    arms: tuple[Arm, ...] = (LIVE, HOURLY, DAILY, FROZEN)
    # Longest slice in seconds: within a slice first all requests are scored, then all examples that became known are learnt.
    slice_s: float = 1.0

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"arms must be at least one, of different names, got {names}")
        if not 0.001 <= self.slice_s < float("inf"):
            raise ConfigError(f"slice_s must be at least 0.001 s, got {self.slice_s!r}")
        if self.end_ms is not None and self.end_ms <= self.start_ms:
            raise ConfigError(f"end_ms must be after start_ms {self.start_ms}, got {self.end_ms}")
        if self.order not in ("service", "time"):
            raise ConfigError(f"order must be 'service' or 'time', got {self.order!r}")
        if self.batches not in ("as_joined", "even"):
            raise ConfigError(f"batches must be 'as_joined' or 'even', got {self.batches!r}")

    def slice_of(self, time_ms: int) -> tuple[int, int]:
        """Return [start, end) of the slice around `time_ms`; no slice reaches over `start_ms`, `end_ms` or a takeover of an arm."""
        steps = [round(self.slice_s * 1000), *(arm.refresh_ms for arm in self.arms if arm.refresh_ms)]
        starts = [time_ms - time_ms % step for step in steps]
        ends = [start + step for start, step in zip(starts, steps, strict=True)]
        for cut in (self.start_ms, self.end_ms):
            if cut is not None:
                (starts if cut <= time_ms else ends).append(cut)
        return max(starts), min(ends)
