"""Tables of the report, each with a note on its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rich import box
from rich.table import Table

from monolith_demo.report.findings import FROZEN, LIVE, Findings
from monolith_demo.report.towers import DENSE, SPARSE

_MANY_ROWS = 1000

_QUALITY_NOTE = (
    "Each impression was predicted before any model learned from it. live: replica that follows the trainer. "
    "frozen: replica that stays at the end of history. linear: online linear learner (Vowpal Wabbit). "
    "video rate: running rate of each video. gain: live - frozen. "
    "NE (normalised entropy): log loss over the log loss of the mean label; below 1 is better than predicting the mean. "
    "calibration: mean prediction over mean label; 1 is exact."
)

Row = tuple[str, ...]


@dataclass(frozen=True)
class ReportTable:
    """One table of texts; the first column names the rows."""

    title: str
    columns: Row
    rows: Sequence[Row]
    note: str  # on the columns; empty for none

    def as_rich(self) -> Table:
        """Return the table for a terminal of at least 80 columns."""
        table = Table(
            title=self.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


def tables(found: Findings) -> list[ReportTable]:
    """Return the tables of the report."""
    *quality, last = (_quality_table(found, task) for task in found.labels)
    return [
        *quality,
        replace(last, note=_QUALITY_NOTE),
        _towers_table(found),
        delay_table(found, "one candidate"),
        _work_table(found),
        _rows_table(found),
        _count_table(found),
    ]


def _quality_table(found: Findings, task: str) -> ReportTable:
    days, overall = found.by_day(task), found.overall(task)
    rows = [
        (model, *(f"{of[model].auc:.4f}" for of in days.values()), f"{whole.auc:.4f}", f"{whole.ne:.4f}", f"{whole.calibration:.3f}")
        for model, whole in overall.items()
    ]
    live, frozen = overall[LIVE], overall[FROZEN]
    gains = (f"{of[LIVE].auc - of[FROZEN].auc:+.4f}" for of in days.values())
    rows.append(("gain", *gains, f"{live.auc - frozen.auc:+.4f}", f"{live.ne - frozen.ne:+.4f}", ""))
    return ReportTable(f"AUC of {task} by day", ("", *(f"day {day}" for day in days), "all", "NE", "calibration"), rows, "")


def _towers_table(found: Findings) -> ReportTable:
    sparse, dense = found.towers[SPARSE], found.towers[DENSE]
    rows = [
        (
            name,
            *(f"{one.quality[task].auc:.4f}" for task in found.labels),
            f"{one.density:.1%}",
            f"{one.num_weights:,}",
            f"{one.num_swaps}",
            f"{one.examples_per_s:,.0f}",
        )
        for name, one in found.towers.items()
    ]
    losses = {task: sparse.quality[task].auc - dense.quality[task].auc for task in found.labels}
    rows.append(("difference", *(f"{loss:+.4f}" for loss in losses.values()), "", f"{sparse.num_weights / dense.num_weights:.1%}", "", ""))
    differences = ", ".join(f"{loss:+.4f} for {task}" for task, loss in losses.items())
    note = (
        "Two trainers learned the examples of this run in the same order, offline. "
        f"The sparse tower (the job's) has {sparse.density:.0%} of the weights; its AUC differs by {differences}. "
        "swaps: updates of the topology, each drops weights and grows others in their place."
    )
    columns = ("tower", *(f"AUC of {task}" for task in found.labels), "density", "weights", "swaps", "examples/s")
    return ReportTable("Sparse tower against a dense one", columns, rows, note)


class Delays(Protocol):
    """Delays of a run."""

    def freshness(self, percent: float) -> float:
        """Return the percentile of freshness over updated rows, in seconds."""
        ...

    def rank_ms(self, percent: float) -> float:
        """Return the percentile of Rank latency, in milliseconds."""
        ...


def delay_table(found: Delays, request: str) -> ReportTable:
    """Return the delays of the live replica; `request` describes the size of a request."""
    rows = [
        ("freshness", f"{found.freshness(50):.2f} s", f"{found.freshness(99):.2f} s"),
        ("Rank over gRPC", f"{found.rank_ms(50):.1f} ms", f"{found.rank_ms(99):.1f} ms"),
    ]
    note = (
        "freshness: from the update of a row in the trainer until the live replica serves it; rows of one training step share one value. "
        f"Rank: {request}, measured by the client; all processes share this machine."
    )
    return ReportTable("Delays", ("", "p50", "p99"), rows, note)


def _work_table(found: Findings) -> ReportTable:
    ledger, live_s = found.ledger, found.live_s
    rows = [
        ("history: examples trained", f"{found.history_impressions:,}", f"{found.history_examples_per_s:,.0f}"),
        ("live: impressions served and learned", f"{len(found.days):,}", f"{found.live_examples_per_s:,.0f}"),
        ("live: model versions served", f"{found.num_versions:,}", f"{found.num_versions / live_s:,.1f}"),
        ("deltas published", f"{ledger.deltas:,}", ""),
        ("MB of deltas published", f"{ledger.delta_bytes / 1e6:,.1f}", ""),
    ]
    note = f"The live phase took {live_s:.0f} s; its rate is set by the replay, not by the limit of the system."
    return ReportTable("Work done", ("", "count", "per second"), rows, note)


def _rows_table(found: Findings) -> ReportTable:
    """Return one row for each table that filters, evicts or is large; the others are summed in one row."""
    rows: list[Row] = []
    others = []
    for name, stats in found.table_stats.items():
        if stats.rows >= _MANY_ROWS or stats.filtered or stats.evicted:
            counts = (stats.rows, stats.admitted, stats.filtered, stats.evicted)
            rows.append((name, *(f"{count:,}" for count in counts), f"{stats.bytes / 1e6:.1f}"))
        else:
            others.append(stats)
    sums = (sum(getattr(stats, field) for stats in others) for field in ("rows", "admitted", "filtered", "evicted"))
    rows.append((f"{len(others)} others", *(f"{count:,}" for count in sums), f"{sum(stats.bytes for stats in others) / 1e6:.1f}"))
    note = (
        "admitted: rows created. filtered: lookups of ids that were seen fewer than admit_after times and have no row. "
        "evicted: rows removed after ttl_s seconds without a lookup."
    )
    return ReportTable("Embedding tables", ("feature", "rows", "admitted", "filtered", "evicted", "MB"), rows, note)


def _count_table(found: Findings) -> ReportTable:
    ledger = found.ledger
    counts = {
        "impressions of history and of the live phase": found.history_impressions + len(found.days),
        "impressions in the log": ledger.impressions,
        "actions in the log": ledger.actions,
        "examples joined": ledger.examples,
        "retractions joined": ledger.retractions,
        "examples and retractions trained": found.trained,
        "dead letters": ledger.dead_letters,
    }
    note = (
        "Counted in the log and in the last checkpoint. retractions: corrections of examples that were joined as negatives before their "
        "action arrived. dead letters: records that could not be used."
    )
    return ReportTable("Records of the run", ("", "count"), [(name, f"{count:,}") for name, count in counts.items()], note)
