"""Age of a replica's model: by its newest delta, by event time, and behind the end of the updates."""

from __future__ import annotations

from contextlib import suppress

from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.observe.metrics import BEHIND_SECONDS, EVENT_STALENESS_SECONDS, STALENESS_SECONDS
from monolith_py.sync import Delta, Subscriber

# Least time between two looks at the end of the updates while they keep coming.
_LOOK_S = 1.0


class Staleness:
    """Ages of the model of one replica. The follower thread writes them, any thread reads them.

    The publish time of a delta is on the trainer's clock, which may be wrong. It counts as far as the replica's own clock allows: the delta
    was published before it arrived, and after the replica last had all updates. Ages grow by the monotonic clock, so no jump of a wall
    clock changes them.
    """

    def __init__(self, clock: Clock, config: ServingConfig) -> None:
        self._clock, self._config = clock, config
        self._follows = config.follow_updates
        self._born_s: float | None = None  # when the model was published, monotonic clock; None before the first load
        self._loaded_s = 0.0  # of the first load
        self._level_s: float | None = None  # newest moment at which all updates were applied; None before the first
        self._has_caught_up = False  # since the last load
        self._noted_s = 0.0  # of the last note about the log
        self._watermark_ms = 0

    def note_load(self, saved_ms: int, watermark_ms: int) -> None:
        """Note that a checkpoint saved at `saved_ms`, wall clock, has become the model."""
        now_s = self._clock.monotonic_s()
        if self._born_s is None:
            self._loaded_s = self._noted_s = now_s
        self._born_s = now_s - max(0, self._clock.now_ms() - saved_ms) / 1000
        self._watermark_ms, self._has_caught_up = watermark_ms, False

    def note_delta(self, delta: Delta) -> None:
        """Note that a delta has arrived and was applied."""
        now_s = self._clock.monotonic_s()
        age_s = max(0, self._clock.now_ms() - delta.published_ms) / 1000
        if self._has_caught_up and self._level_s is not None:
            age_s = min(age_s, max(0.0, now_s - self._level_s))
        self._born_s = now_s - age_s
        self._watermark_ms = delta.watermark_ms

    def note_read(self, level_s: float | None) -> None:
        """Note that the updates were read; `level_s`: moment at which all were applied, None if it is not known."""
        self._noted_s = self._clock.monotonic_s()
        if level_s is not None:
            self._level_s = level_s if self._level_s is None else max(level_s, self._level_s)
            self._has_caught_up = True

    def note_unreachable(self) -> None:
        """Note that the log cannot be reached. Nobody knows of newer updates then, so this time does not count as behind."""
        now_s = self._clock.monotonic_s()
        if self._level_s is not None:
            self._level_s += now_s - self._noted_s
        self._noted_s = now_s

    @property
    def has_caught_up(self) -> bool:
        """Return whether all updates were applied at some moment since the last load."""
        return self._has_caught_up

    @property
    def is_fresh(self) -> bool:
        """Return whether the replica has caught up since its start, or gave it up, and is not behind for longer than allowed."""
        if not self._follows:
            return True
        if self._level_s is None:
            return self._clock.monotonic_s() - self._loaded_s >= self._config.max_catch_up_s
        return self._config.max_behind_s == 0 or self.behind_s() <= self._config.max_behind_s

    def behind_s(self) -> float:
        """Return seconds since the replica last had all updates; since its first load if it never had."""
        if self._born_s is None or not self._follows:
            return 0.0
        return max(0.0, self._noted_s - (self._loaded_s if self._level_s is None else self._level_s))

    def staleness_ms(self) -> int:
        """Return milliseconds since the newest applied delta was published; 0 before a checkpoint was loaded."""
        return 0 if self._born_s is None else int(1000 * (self._clock.monotonic_s() - self._born_s))

    def event_staleness_ms(self) -> int:
        """Return milliseconds from the event time that the model has learnt to the wall clock; 0 if it has learnt nothing."""
        return max(0, self._clock.now_ms() - self._watermark_ms) if self._watermark_ms > 0 else 0

    def report(self) -> None:
        """Set the gauges."""
        arm = self._config.arm
        STALENESS_SECONDS.labels(arm=arm).set(self.staleness_ms() / 1000)
        EVENT_STALENESS_SECONDS.labels(arm=arm).set(self.event_staleness_ms() / 1000)
        BEHIND_SECONDS.labels(arm=arm).set(self.behind_s())


class EndOfUpdates:
    """Finds the moments at which a subscriber has applied all updates: after an empty read, and at an end offset asked for before."""

    def __init__(self, log: Log, topic: str, clock: Clock) -> None:
        self._log, self._topic, self._clock = log, topic, clock
        self._asked_s, self._end = float("-inf"), 0  # the last end offset, and when it was asked for
        self._is_reached = True

    def level_s(self, subscriber: Subscriber, began_s: float) -> float | None:
        """Return the newest moment at which all updates were applied, None if none is known; the last read began at `began_s`."""
        if subscriber.is_at_end:
            self._is_reached = True
            return began_s
        level_s = None
        if not self._is_reached and subscriber.offset >= self._end:
            level_s, self._is_reached = self._asked_s, True
        now_s = self._clock.monotonic_s()
        if self._is_reached and now_s - self._asked_s >= _LOOK_S:
            with suppress(LogError):
                self._end, self._asked_s, self._is_reached = self._log.end_offset(self._topic), now_s, False
        return level_s
