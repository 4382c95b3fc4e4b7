"""Plots of the list-wise report, one PNG each."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from monolith_demo.report.list_findings import DAILY, FROZEN, HOURLY, ITEM_RATE, LINEAR, LIVE, ORACLE, ListFindings
from monolith_demo.report.plots import draw_share, png

_COLOURS = {
    LIVE: "#0a7d5a",
    HOURLY: "#7a4fb0",
    DAILY: "#c2467d",
    FROZEN: "#3b6fb6",
    LINEAR: "#b08030",
    ITEM_RATE: "#999999",
    ORACLE: "#222222",
}
_PART_H = 2


def draw_list(found: ListFindings) -> dict[str, bytes]:
    """Return the plots as PNG, by title."""
    aucs = found.aucs_by_part(_PART_H)
    return {
        f"AUC by hour of the last day, {_PART_H} hours a point": png(lambda axes: _draw_aucs(axes, aucs)),
        f"Gain in AUC of the live replica, {_PART_H} hours a point": png(lambda axes: _draw_gains(axes, aucs)),
        "Freshness: share of updated rows served within": png(
            lambda axes: draw_share(axes, found.freshness_s, found.freshness_rows, "seconds")
        ),
        "Rank over gRPC: share of requests answered within": png(
            lambda axes: draw_share(axes, found.rank_s * 1000, np.ones(len(found.rank_s)), "milliseconds", log=True)
        ),
    }


def _draw_aucs(axes: Axes, aucs: dict[str, list[float]]) -> None:
    for model, values in aucs.items():
        axes.plot(_middles(values), values, marker=".", color=_COLOURS[model], label=model)
    axes.set(xlabel="hours since noon", ylabel="AUC")
    axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_gains(axes: Axes, aucs: dict[str, list[float]]) -> None:
    for model in (HOURLY, DAILY, FROZEN):
        gains = np.array(aucs[LIVE]) - np.array(aucs[model])
        axes.plot(_middles(aucs[model]), gains, marker=".", color=_COLOURS[model], label=f"live - {model}")
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set(xlabel="hours since noon", ylabel="gain in AUC")
    axes.legend(fontsize=8)


def _middles(values: list[float]) -> np.ndarray:
    return (np.arange(len(values)) + 0.5) * _PART_H
