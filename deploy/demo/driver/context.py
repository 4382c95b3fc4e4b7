"""Parts of one run that all its phases share, and the progress bars."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import Progress

from monolith_demo.dataset.stream import Dataset
from monolith_demo.driver.children import Children
from monolith_demo.driver.job_files import JobFiles
from monolith_demo.report.ledger import scrape
from monolith_py.config import JobConfig
from monolith_py.io import Log

_POLL_S = 0.25


@dataclass
class RunContext:
    """One run: its data, settings, processes and log."""

    data: Dataset
    files: JobFiles
    job: JobConfig  # the live job of `files`
    children: Children
    log: Log
    progress: Progress
    took_s: dict[str, float] = field(default_factory=dict)  # wall clock by phase

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Record the duration of the block as that of `phase`."""
        began_s = time.monotonic()
        yield
        self.took_s[phase] = time.monotonic() - began_s

    def run_to_end(self, name: str, command: str) -> None:
        """Run `monolith COMMAND --stop-at-end` on the live job as the process `name`.

        Raises:
            ProcessDied: it failed, or another process ended.
        """
        self.children.start(name, command, self.files.live, "--stop-at-end")
        self.children.finish(name)


class CounterBar:
    """Progress bar that follows a counter of a process, read from its Prometheus port."""

    def __init__(self, context: RunContext, description: str, total: int, port: int, metric: str) -> None:
        self._children, self._progress = context.children, context.progress
        self._task = context.progress.add_task(description, total=total)
        self._port, self._metric = port, metric
        self._before = 0.0  # count of the processes that have ended

    def update(self) -> float:
        """Move the bar to the counter and return the counter; 0 while the process does not answer."""
        value = scrape(self._port, self._metric)
        if value:
            self._progress.update(self._task, completed=self._before + value)
        return value or 0.0

    def keep(self) -> None:
        """Keep the current count: the next process starts again from 0."""
        self._before += self.update()

    def follow(self, name: str) -> float:
        """Move the bar until the process `name` has ended, and return the counter's rate per second; NaN with fewer than two values.

        Raises:
            ProcessDied: it failed, or another process ended.
        """
        seen: list[tuple[float, float]] = []
        while self._children.is_running(name):
            value = self.update()
            if value and (not seen or value > seen[-1][1]):
                seen.append((time.monotonic(), value))
            time.sleep(_POLL_S)
        self._children.finish(name)
        self._progress.update(self._task, completed=self._progress.tasks[self._task].total)
        if len(seen) < 2:
            return float("nan")
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
