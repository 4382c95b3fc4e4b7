"""Evidence for the table: what collisions cost, and what filter, TTL and budget save and cost, on the shipped KuaiRand.

Writes TABLE.md and its plots; every figure in them is measured in this run. Takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from passes import Outcome, learn
from side_by_side import side_by_side
from streams import Columns, criteo_columns, kuairand_columns
from table_report import write_report
from variants import COLLISIONS, COUNTERS, CRITEO, FORGETTING, Variant

from monolith_py import _core

FOLDER = Path(__file__).parent
# Collisions carry the claims; the rest needs fewer passes to be told apart.
NUM_SEEDS = ((COLLISIONS, 10), (FORGETTING, 5), (COUNTERS, 5), (CRITEO, 5))
QUICK_EXAMPLES = 5_000

_streams: dict[str, Columns] = {}  # of a worker


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed on the first 20,000 impressions, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write TABLE.md and its plots; required with --quick")
    parser.add_argument("--criteo", type=Path, help="a Parquet file of Criteo's layout, to try collisions on it, too")
    parser.add_argument("--jobs", type=int, default=min(2, len(os.sched_getaffinity(0))), help="passes side by side, one thread each")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of TABLE.md")
    limit = QUICK_EXAMPLES if options.quick else None
    streams = {"kuairand": kuairand_columns(limit)}
    if options.criteo is not None:
        streams["criteo"] = criteo_columns(options.criteo, limit)
    began_s = time.monotonic()
    results = run_all(tasks_of(streams, quick=options.quick), streams, options.jobs)
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["tests/evidence/table.py", *(Path(argument).name for argument in arguments)])
    about = (
        f"{datetime.now(UTC):%d %b %Y}, `{command}`, {sum(map(len, results.values()))} passes in {minutes:.1f} minutes, "
        f"{options.jobs} side by side, core {_core.simd_level()}."
    )
    write_report(folder, results, streams, about)
    print(f"written to {folder / 'TABLE.md'}")


def tasks_of(streams: Mapping[str, Columns], *, quick: bool) -> list[tuple[Variant, int]]:
    """Return all passes, (variant, seed), each once."""
    wanted = {}
    for variants, num_seeds in NUM_SEEDS:
        for seed in range(1 if quick else num_seeds):
            wanted |= {(variant.name, seed): variant for variant in variants if variant.stream in streams}
    return [(variant, seed) for (_, seed), variant in wanted.items()]


def run_all(tasks: Sequence[tuple[Variant, int]], streams: Mapping[str, Columns], jobs: int) -> dict[str, list[Outcome]]:
    """Return the outcomes of each variant by its name, in the order of their seeds."""
    return _by_variant(outcome for _, outcome in side_by_side(tasks, _learn, jobs, _receive, streams))


def _by_variant(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    results: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.seed):
        results.setdefault(outcome.variant, []).append(outcome)
    return results


def _receive(streams: Mapping[str, Columns]) -> None:
    _streams.update(streams)


def _learn(variant: Variant, seed: int) -> Outcome:
    return learn(_streams[variant.stream], variant, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
