"""Freshness: the time from a training step, and from its newest event, until this replica can serve its rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monolith_py.observe.metrics import EVENT_FRESHNESS_SECONDS, FRESHNESS_SECONDS
from monolith_py.sync import StepMark


class Freshness:
    """Observes the age of each row when it becomes servable; writes a line per step to the file `path` unless it is None."""

    def __init__(self, path: str | None) -> None:
        self._file = None if path is None else Path(path).open("a", buffering=1, encoding="ascii")  # noqa: SIM115 (closed by close)

    def note(self, steps: Sequence[StepMark], now_ms: int, wall_ms: int) -> None:
        """Observe that the rows of `steps` became servable: at `now_ms` on the clock of their times, `wall_ms` on that of event times."""
        for step in steps:
            age_s = max(0, now_ms - step.time_ms) / 1000
            FRESHNESS_SECONDS.observe(age_s, step.num_rows)
            if step.event_ms:
                EVENT_FRESHNESS_SECONDS.observe(max(0, wall_ms - step.event_ms) / 1000, step.num_rows)
            if self._file is not None:
                self._file.write(f"{now_ms} {age_s:.3f} {step.num_rows}\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
