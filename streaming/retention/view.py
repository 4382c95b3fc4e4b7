"""Bounds of retention on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from monolith_streaming.retention.bounds import Bound


def print_bounds(bounds: Sequence[Bound], *, deleted: int | None) -> None:
    """Print one row a partition; `deleted` is the number of records deleted, None if none was to be."""
    table = Table("topic", "partition", "first", "end", "not needed", "the rest is needed by")
    for bound in bounds:
        numbers = (bound.partition, bound.start, bound.end, bound.num_deletable)
        table.add_row(bound.topic, *map(str, numbers), bound.reason)
    Console().print(table)
    total = sum(bound.num_deletable for bound in bounds)
    line = f"{total} records are not needed; --yes deletes them" if deleted is None else f"{deleted} records deleted"
    Console().print(line, highlight=False)
