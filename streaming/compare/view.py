"""View of a comparison in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from monolith_streaming.compare.arms import Comparison
from monolith_streaming.compare.document import (
    DIFFERENCE_COLUMNS,
    FIGURE_COLUMNS,
    NOTE,
    answer_of,
    difference_rows,
    figure_rows,
    title_of,
)
from monolith_streaming.compare.figures import ArmFigures, Difference

_MIN_WIDTH = 150  # a narrower terminal folds the lines instead of squeezing the numbers


def print_comparison(comparison: Comparison, figures: Sequence[ArmFigures], differences: Sequence[Difference]) -> None:
    """Print the figures of every arm and the differences on standard output."""
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, _MIN_WIDTH)
    console.print(_table(title_of(comparison), FIGURE_COLUMNS, figure_rows(figures)))
    if differences:
        console.print(_table("Differences", DIFFERENCE_COLUMNS, difference_rows(differences)))
        console.print(answer_of(differences), soft_wrap=True)
    console.print(NOTE, soft_wrap=True)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
