"""View of a backtest in a terminal: progress, and the table of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from monolith_streaming.backtest.backtest import Progress
from monolith_streaming.backtest.figures import Figures, Gain
from monolith_streaming.backtest.result import BacktestResult

_MIN_WIDTH = 120  # a narrower terminal folds the lines instead of squeezing the numbers


@contextmanager
def showing_progress(end_ms: int | None) -> Iterator[Callable[[Progress], None]]:
    """Show a bar on standard error inside the block, up to event time `end_ms` (None: unknown); yield the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading the log", total=None)
        start_ms: int | None = None

        def move(progress: Progress) -> None:
            nonlocal start_ms
            if start_ms is None:
                start_ms = progress.time_ms
            total = None if end_ms is None else max(end_ms - start_ms, progress.time_ms - start_ms, 1)
            text = f"{_date(progress.time_ms)}: {progress.num_examples:,} learnt, {progress.num_scored:,} scored"
            bar.update(task, total=total, completed=progress.time_ms - start_ms, description=text)

        yield move


def print_result(result: BacktestResult, gains: Mapping[str, Mapping[str, Gain]], base: str | None) -> None:
    """Print the figures of every arm and task on standard output."""
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, _MIN_WIDTH)
    title = f"{_date(int(result.times_ms.min()))} to {_date(int(result.times_ms.max()))}: {len(result.request_ids):,} candidates"
    table = Table("task", "arm", title=title)
    for column in ("AUC", f"gain over {base}" if base else "gain", "per-impression AUC", "NE", "calibration", "label rate"):
        table.add_column(column, justify="right", no_wrap=True)
    figures = result.figures()
    for task in result.labels:
        for arm in figures:
            table.add_row(task, arm, *_cells(figures[arm][task], gains.get(arm, {}).get(task)))
        table.add_section()
    console.print(table)
    own = ", ".join(f"{task} {_number(value)}" for task, value in result.progressive_auc().items())
    console.print(f"AUC of the trainer's own predictions just before learning, biased where labels close early: {own}", soft_wrap=True)
    passed_over = f"{result.num_put_aside:,} examples and {result.num_refused:,} records passed over"
    console.print(f"{result.num_examples:,} examples learnt, {result.num_history:,} of them history; {passed_over}", soft_wrap=True)


def _cells(figures: Figures, gain: Gain | None) -> tuple[str, ...]:
    interval = "" if gain is None else f"{gain.auc:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    values = (figures.per_impression_auc, figures.ne, figures.calibration, figures.label_rate)
    return _number(figures.auc), interval, *map(_number, values)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _date(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
