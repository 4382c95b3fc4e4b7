"""Plots of a backtest by interval of event time. Needs matplotlib, which the extra `demo` installs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from monolith_streaming.backtest.result import Interval


def draw_series(series: Sequence[Interval], figure: str, label: str, path: Path) -> None:
    """Draw one figure of `Figures`, all arms over event time, a panel for each task, to a PNG file."""
    first = series[0].figures
    tasks = list(next(iter(first.values())))
    canvas = Figure(figsize=(8, 3.2 * len(tasks)), layout="constrained")
    panels = canvas.subplots(len(tasks), 1, squeeze=False)[:, 0]
    for panel, task in zip(panels, tasks, strict=True):
        _draw_task(panel, series, task, figure)
        panel.set(title=task, ylabel=label)
    panels[-1].set_xlabel("event time of the request, UTC")
    canvas.savefig(path, dpi=110)


def _draw_task(panel: Axes, series: Sequence[Interval], task: str, figure: str) -> None:
    times = np.array([datetime.fromtimestamp(one.start_ms / 1000, UTC).replace(tzinfo=None) for one in series], "datetime64[ms]")
    for arm in series[0].figures:
        panel.plot(times, [getattr(one.figures[arm][task], figure) for one in series], marker=".", linewidth=1.2, label=arm)
    if figure == "calibration":
        panel.axhline(1.0, color="#888888", linewidth=0.8)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)
