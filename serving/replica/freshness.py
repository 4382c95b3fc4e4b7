"""Freshness: how long after a training step its rows were servable here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monolith_py.observe.metrics import FRESHNESS_SECONDS
from monolith_py.sync import StepMark


class Freshness:
    """Counts the age of rows at the moment they become servable, row by row, and writes a line for each step to a file if asked."""

    def __init__(self, path: str | None) -> None:
        self._file = None if path is None else Path(path).open("a", buffering=1, encoding="ascii")  # noqa: SIM115 (closed by close)

    def note(self, steps: Sequence[StepMark], now_ms: int) -> None:
        """Note that the rows of `steps` are servable at `now_ms`, wall clock."""
        for step in steps:
            age_s = max(0, now_ms - step.time_ms) / 1000
            FRESHNESS_SECONDS.observe(age_s, step.num_rows)
            if self._file is not None:
                self._file.write(f"{now_ms} {age_s:.3f} {step.num_rows}\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
