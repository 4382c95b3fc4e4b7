"""Times of probes on the terminal and as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from monolith_serving.probe.probe import ProbeTimes

_PARTS = ("join", "train", "publish", "apply", "total")


def percentiles(times: Sequence[ProbeTimes]) -> dict[str, dict[str, float]]:
    """Return p50, p99 and the largest time of each part, in seconds.

    >>> percentiles([ProbeTimes(0.1, 0.0, 0.1, 0.1)] * 3)["join"]
    {'p50': 0.1, 'p99': 0.1, 'max': 0.1}
    """
    values = {part: [getattr(one, f"{part}_s") for one in times] for part in _PARTS}
    return {
        part: {name: round(float(np.percentile(seconds, q)), 6) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}
        for part, seconds in values.items()
    }


def print_probes(times: Sequence[ProbeTimes]) -> None:
    """Print one row a part of the way."""
    table = Table("part", "p50 ms", "p99 ms", "max ms", title=f"from the click to the served score, {len(times)} probes")
    for part, found in percentiles(times).items():
        table.add_row(part, *(f"{1000 * seconds:.0f}" for seconds in found.values()))
    Console().print(table)
