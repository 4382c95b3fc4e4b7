"""Versions of a model on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from monolith_streaming.trainer.versions import ModelVersion


def print_versions(versions: Sequence[ModelVersion]) -> None:
    """Print one row a version, newest first."""
    table = Table("name", "version", "from", "examples", "event time", "saved", "digest")
    for one in versions:
        if one.fault:
            table.add_row(one.name, "damaged", "", "", "", "", one.fault)
            continue
        examples = "" if one.examples is None else str(one.examples)
        table.add_row(one.name, one.version, one.parent, examples, _time(one.watermark_ms), _time(one.saved_ms), one.digest)
    Console().print(table)


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds") if time_ms else ""
