"""Evidence for sparse towers: what they cost in quality against dense ones and controls, and who survives a drift, on the shipped KuaiRand.

Writes TOWER.md and its plots; every figure in them is measured in this run. Takes about a quarter of an hour on two cores (`--jobs 2`).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from side_by_side import side_by_side
from tower_findings import bars
from tower_passes import TowerOutcome, learn
from tower_report import write_report
from tower_streams import TowerStream, criteo_stream, kuairand_stream
from tower_variants import BF16, CLAIMS, CONTROLS, DRIFT, TowerVariant

from monolith_py import _core

FOLDER = Path(__file__).parent
# Claims rest on differences of some 1e-4 AUC; the controls are told apart with less.
NUM_SEEDS = (("kuairand", CLAIMS, 10), ("kuairand", (*CONTROLS, *BF16), 3), ("drift", DRIFT, 3), ("criteo", (*CLAIMS, *CONTROLS), 3))
QUICK_EXAMPLES = 5_000
# Student's quantiles are known for so many (intervals.py).
MOST_SEEDS = 10

Task = tuple[str, TowerVariant, int]  # stream, variant, seed
Results = dict[str, dict[str, list[TowerOutcome]]]  # by stream, then by variant

_streams: dict[str, TowerStream] = {}  # of a worker


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed on the first 20,000 impressions, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write TOWER.md and its plots; required with --quick")
    parser.add_argument("--data", type=Path, help="a Parquet file of Criteo's layout, to try the towers on it, too")
    parser.add_argument("--seeds", type=int, help=f"seeds of every variant, 2 to {MOST_SEEDS}, instead of 10 for claims and 3 for the rest")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each; times are cleanest with one")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of TOWER.md")
    if options.seeds is not None and not 2 <= options.seeds <= MOST_SEEDS:
        parser.error(f"--seeds must be in [2, {MOST_SEEDS}], got {options.seeds}")
    limit = QUICK_EXAMPLES if options.quick else None
    streams = {"kuairand": kuairand_stream(limit)}
    streams["drift"] = streams["kuairand"].with_drift()
    if options.data is not None:
        streams["criteo"] = criteo_stream(options.data, limit)
    began_s = time.monotonic()
    tasks = tasks_of(streams, 1 if options.quick else options.seeds)
    results = run_all(tasks, streams, options.jobs)
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["tests/evidence/tower.py", *(Path(argument).name for argument in arguments)])
    about = (
        f"{datetime.now(UTC):%d %b %Y}, `{command}`, {len(tasks)} passes in {minutes:.1f} minutes, {options.jobs} side by side, "
        f"core {_core.simd_level()}."
    )
    write_report(folder, results, streams, about)
    for bar in bars(results["kuairand"]):
        print(bar.line)
    print(f"written to {folder / 'TOWER.md'}")


def tasks_of(streams: Mapping[str, TowerStream], num_seeds: int | None) -> list[Task]:
    """Return all passes, each once; seed by seed, so that what else runs on the machine meets all variants alike."""
    tasks = [
        (stream, variant, seed)
        for stream, variants, default in NUM_SEEDS
        if stream in streams
        for variant in variants
        for seed in range(num_seeds or default)
    ]
    return sorted(tasks, key=lambda task: task[2])


def run_all(tasks: Sequence[Task], streams: Mapping[str, TowerStream], jobs: int) -> Results:
    """Return the outcomes of each variant by stream and name, in the order of their seeds."""
    results: Results = {}
    for (stream, variant, _), outcome in side_by_side(tasks, _learn, jobs, _receive, streams):
        results.setdefault(stream, {}).setdefault(variant.name, []).append(outcome)
    for of_stream in results.values():
        for outcomes in of_stream.values():
            outcomes.sort(key=lambda outcome: outcome.seed)
    return results


def _receive(streams: Mapping[str, TowerStream]) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing, and that a layer is too small to be sparse, which the densities show
    _streams.update(streams)


def _learn(stream: str, variant: TowerVariant, seed: int) -> TowerOutcome:
    return learn(_streams[stream], variant, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
