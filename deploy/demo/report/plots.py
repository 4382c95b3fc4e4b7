"""Plots of the report, one PNG each."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from monolith_demo.report.findings import FROZEN, LINEAR, LIVE, VIDEO_RATE, Findings
from monolith_py.training import auc

_COLOURS = {LIVE: "#0a7d5a", FROZEN: "#3b6fb6", LINEAR: "#b08030", VIDEO_RATE: "#999999"}
_CURVE_POINTS = 120
_LEAST_FOR_AUC = 2000  # impressions: the AUC of fewer is mostly noise


def draw(found: Findings) -> dict[str, bytes]:
    """Return the plots as PNG, by title."""
    task = next(iter(found.labels))
    return {
        f"AUC of {task} by day": png(lambda axes: _draw_days(axes, found, task)),
        "Gain in AUC so far, live - frozen": png(lambda axes: _draw_gain(axes, found)),
        "Freshness: share of updated rows served within": png(
            lambda axes: draw_share(axes, found.freshness_s, found.freshness_rows, "seconds")
        ),
        "Rank over gRPC: share of requests answered within": png(
            lambda axes: draw_share(axes, found.rank_s * 1000, np.ones(len(found.rank_s)), "milliseconds", log=True)
        ),
    }


def png(paint: Callable[[Axes], None]) -> bytes:
    """Return the plot that `paint` draws, as PNG."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    paint(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_days(axes: Axes, found: Findings, task: str) -> None:
    days = found.by_day(task)
    for model, colour in _COLOURS.items():
        axes.plot([str(day) for day in days], [of[model].auc for of in days.values()], marker="o", color=colour, label=model)
    axes.set(xlabel="day", ylabel="AUC")
    axes.legend(fontsize=8)


def _draw_gain(axes: Axes, found: Findings) -> None:
    """Draw the AUC of live minus that of frozen over all impressions so far."""
    count = len(found.days)
    points = np.unique(np.linspace(min(_LEAST_FOR_AUC, count), count, _CURVE_POINTS).astype(int))
    for task, labels in found.labels.items():
        of = found.predictions[task]
        axes.plot(points, [auc(labels[:end], of[LIVE][:end]) - auc(labels[:end], of[FROZEN][:end]) for end in points], label=task)
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set(xlabel="live impressions", ylabel="gain in AUC")
    axes.legend(fontsize=8)


def draw_share(axes: Axes, values: np.ndarray, weights: np.ndarray, unit: str, *, log: bool = False) -> None:
    """Draw the cumulative share of the weight over the values."""
    order = np.argsort(values)
    if len(order):
        axes.plot(values[order], np.cumsum(weights[order]) / weights.sum())
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.set_xlim(0, float(np.percentile(values, 99.5)) * 1.1 + 1e-9)
    axes.set(xlabel=unit, ylabel="share", ylim=(0, 1.02))
