"""The report: tables in the terminal, and one HTML page with plots."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from monolith_demo.report.findings import FROZEN, LINEAR, LIVE, VIDEO_RATE, Findings
from monolith_demo.report.measures import auc
from monolith_demo.report.towers import DENSE, SPARSE

_COLOURS = {LIVE: "#0a7d5a", FROZEN: "#3b6fb6", LINEAR: "#b08030", VIDEO_RATE: "#999999"}
_CURVE_POINTS = 120
# An AUC over fewer impressions than these says little.
_CURVE_FROM = 2000

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .8rem .25rem 0; text-align: right }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% } code, pre { background: #f4f4f4; padding: .1rem .3rem }
"""


def tables(found: Findings) -> list[Table]:
    """Return the tables of the report."""
    quality = (_quality_table(found, task) for task in found.labels)
    return [*quality, _towers_table(found), _system_table(found), _rows_table(found), _count_table(found)]


def write_html(found: Findings, notes: list[str], commands: list[str], path: Path) -> None:
    """Write the report as one page that needs nothing beside it."""
    plots = base64.b64encode(draw(found)).decode()
    parts = [
        "<!doctype html><meta charset='utf-8'><title>monolith demo</title>",
        f"<style>{_STYLE}</style><h1>What learning online was worth</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        f"<img alt='plots' src='data:image/png;base64,{plots}'>",
        *(_html_table(table) for table in tables(found)),
        f"<h2>To try next</h2><pre>{html.escape(chr(10).join(commands))}</pre>",
    ]
    path.write_text("\n".join(parts) + "\n")


def draw(found: Findings) -> bytes:
    """Return the plots as PNG."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    (by_day, running), (freshness, latency) = figure.subplots(2, 2)
    task = next(iter(found.labels))
    days = found.by_day(task)
    for model, colour in _COLOURS.items():
        by_day.plot([str(day) for day in days], [of[model].auc for of in days.values()], marker="o", color=colour, label=model)
    by_day.set(title=f"AUC of {task} by day, predicted before learnt", xlabel="day", ylabel="AUC")
    by_day.legend(fontsize=8)
    _draw_gain(found, running)
    _draw_share(freshness, found.freshness_s, found.freshness_rows, "seconds", "Row updated to servable")
    _draw_share(latency, found.rank_s * 1000, np.ones(len(found.rank_s)), "milliseconds", "Rank over gRPC, one candidate")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_gain(found: Findings, axes: Axes) -> None:
    """Draw the AUC of live less that of frozen over all impressions so far."""
    count = len(found.days)
    points = np.unique(np.linspace(min(_CURVE_FROM, count), count, _CURVE_POINTS).astype(int))
    for task, labels in found.labels.items():
        of = found.predictions[task]
        axes.plot(points, [auc(labels[:end], of[LIVE][:end]) - auc(labels[:end], of[FROZEN][:end]) for end in points], label=task)
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set(title="AUC so far, live less frozen", xlabel="impressions served live", ylabel="gain")
    axes.legend(fontsize=8)


def _draw_share(axes: Axes, values: np.ndarray, weights: np.ndarray, unit: str, title: str) -> None:
    """Draw the share of the weight up to each value."""
    order = np.argsort(values)
    if len(order):
        axes.plot(values[order], np.cumsum(weights[order]) / weights.sum())
        axes.set_xlim(0, float(np.percentile(values, 99.5)) * 1.1 + 1e-9)
    axes.set(title=title, xlabel=unit, ylabel="share")


def _quality_table(found: Findings, task: str) -> Table:
    days = found.by_day(task)
    columns = (*(f"day {day}" for day in days), "all", "NE", "calibration")
    table = _table(f"AUC of {task}, each impression predicted before anything learnt from it", "", *columns)
    for model, whole in found.overall(task).items():
        by_day = (f"{of[model].auc:.4f}" for of in days.values())
        table.add_row(model, *by_day, f"{whole.auc:.4f}", f"{whole.ne:.4f}", f"{whole.calibration:.3f}")
    overall = found.overall(task)
    gains = (f"{of[LIVE].auc - of[FROZEN].auc:+.4f}" for of in days.values())
    table.add_row(
        "live less frozen", *gains, f"{overall[LIVE].auc - overall[FROZEN].auc:+.4f}", f"{overall[LIVE].ne - overall[FROZEN].ne:+.4f}", ""
    )
    return table


def _towers_table(found: Findings) -> Table:
    """Return what the tower's sparsity costs: two trainers over the same batches, offline, scored on the live days."""
    columns = (*(f"AUC of {task}" for task in found.labels), "density", "weights", "swaps", "examples/s")
    table = _table("Tower of the job against a dense one, on the examples of this run", "tower", *columns)
    for name, one in found.towers.items():
        aucs = (f"{one.quality[task].auc:.4f}" for task in found.labels)
        table.add_row(name, *aucs, f"{one.density:.1%}", f"{one.num_weights:,}", f"{one.num_swaps}", f"{one.examples_per_s:,.0f}")
    sparse, dense = (found.towers[name] for name in (SPARSE, DENSE))
    differences = (f"{sparse.quality[task].auc - dense.quality[task].auc:+.4f}" for task in found.labels)
    table.add_row("difference", *differences, "", f"{sparse.num_weights / dense.num_weights:.1%}", "", "")
    return table


def _system_table(found: Findings) -> Table:
    table = _table("The system", "", "p50", "p99")
    table.add_row("row updated to servable", f"{found.freshness(50):.2f} s", f"{found.freshness(99):.2f} s")
    table.add_row("Rank over gRPC, all processes on this machine", f"{found.rank_ms(50):.1f} ms", f"{found.rank_ms(99):.1f} ms")
    table.add_row("history trained", f"{found.history_examples:,} examples", f"{found.history_examples_per_s:,.0f} /s")
    table.add_row("live: served, joined, trained", f"{len(found.days):,} impressions", f"{found.live_examples_per_s:,.0f} /s")
    table.add_row("models that served", f"{found.num_versions:,} versions", f"in {found.live_s:.0f} s")
    ledger = found.ledger
    table.add_row("deltas published", f"{ledger.deltas:,}", f"{ledger.delta_bytes / 1e6:,.1f} MB")
    return table


def _rows_table(found: Findings) -> Table:
    """Return one line for each feature that filters or evicts, or has many rows; the others in one."""
    table = _table("Embedding tables", "feature", "rows", "admitted", "filtered", "evicted", "MB")
    rest = []
    for name, stats in found.table_stats.items():
        if stats.rows >= 1000 or stats.filtered or stats.evicted:
            counts = (stats.rows, stats.admitted, stats.filtered, stats.evicted)
            table.add_row(name, *(f"{count:,}" for count in counts), f"{stats.bytes / 1e6:.1f}")
        else:
            rest.append(stats)
    sums = (sum(getattr(stats, field) for stats in rest) for field in ("rows", "admitted", "filtered", "evicted"))
    table.add_row(f"{len(rest)} others", *(f"{count:,}" for count in sums), f"{sum(stats.bytes for stats in rest) / 1e6:.1f}")
    return table


def _count_table(found: Findings) -> Table:
    ledger = found.ledger
    table = _table("Counted in the log and the last checkpoint", "", "count")
    for name, count in (
        ("impressions of history and served live", found.history_impressions + len(found.days)),
        ("impressions in the log", ledger.impressions),
        ("actions in the log", ledger.actions),
        ("examples joined", ledger.examples),
        ("late positives, joined as retractions", ledger.retractions),
        ("examples and retractions trained", found.trained),
        ("dead letters", ledger.dead_letters),
    ):
        table.add_row(name, f"{count:,}")
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _html_table(table: Table) -> str:
    """Return a rich table of plain texts as HTML."""
    head = "".join(f"<th>{html.escape(str(column.header))}</th>" for column in table.columns)
    rows = zip(*(column.cells for column in table.columns), strict=True)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{html.escape(str(table.title))}</caption><tr>{head}</tr>{body}</table>"


def print_report(found: Findings, console: Console) -> None:
    """Print the tables."""
    for table in tables(found):
        console.print()
        console.print(table)
