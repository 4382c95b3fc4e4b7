"""Dead letters on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monolith_py.data.events import DeadLetter
from monolith_streaming.dead_letters.selection import count_by_rule


def print_letters(letters: Iterable[tuple[int, DeadLetter]]) -> None:
    """Print one row a letter."""
    table = Table("letter", "topic", "partition", "offset", "put aside (UTC)", "bytes", "kind", "reason")
    for offset, letter in letters:
        time = datetime.fromtimestamp(letter.time_ms / 1000, UTC).isoformat(" ", "seconds")[:19]
        size = letter.value_bytes or len(letter.value)
        place = (str(offset), letter.topic, str(letter.partition), str(letter.offset))
        table.add_row(*place, time, str(size), str(letter.kind), escape(letter.reason))
    Console().print(table)


def print_counts(letters: Iterable[DeadLetter]) -> None:
    """Print the number of letters by topic, kind and rule."""
    table = Table("letters", "topic", "kind", "rule")
    for topic, kind, rule, number in count_by_rule(letters):
        table.add_row(str(number), topic, kind, escape(rule))
    Console().print(table)


def print_results(results: Mapping[str, int]) -> None:
    """Print the numbers of letters put back and of those that stay."""
    for outcome, number in results.items():
        Console().print(f"{number} {outcome}" if outcome == "put back" else f"{number} stay: {outcome}", highlight=False)
