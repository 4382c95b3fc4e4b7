"""Evidence on embedding rows that hold only some of their atoms: whether such a pool beats plain tables of as many bytes, on KuaiRand.

Writes POOL.md and its plot; every figure in them is measured in this run. Takes about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pool_passes import PoolOutcome, learn
from pool_report import verdict, write_report
from pool_speed import speeds
from pool_variants import EVERYTHING, PoolVariant
from side_by_side import side_by_side
from tower_streams import TowerStream, kuairand_stream

from monolith_py import _core

FOLDER = Path(__file__).parent
QUICK_EXAMPLES = 5_000
# Student's quantiles are known for so many (intervals.py).
MOST_SEEDS = 10
# More than any cache holds of the wider dims.
NUM_ROWS, QUICK_ROWS = 4_000_000, 100_000

Task = tuple[PoolVariant, int]  # and its seed

_streams: list[TowerStream] = []  # of a worker, the one


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed on the first 20,000 impressions, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write POOL.md and its plot; required with --quick")
    parser.add_argument("--seeds", type=int, default=3, help=f"seeds of every variant, 2 to {MOST_SEEDS}")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of POOL.md")
    if not 2 <= options.seeds <= MOST_SEEDS:
        parser.error(f"--seeds must be in [2, {MOST_SEEDS}], got {options.seeds}")
    stream = kuairand_stream(QUICK_EXAMPLES if options.quick else None)
    num_rows = QUICK_ROWS if options.quick else NUM_ROWS
    speed = speeds(num_rows)
    began_s = time.monotonic()
    # Seed by seed, so that what else runs on the machine meets all variants alike.
    tasks = [(variant, seed) for seed in range(1 if options.quick else options.seeds) for variant in EVERYTHING]
    results = run_all(tasks, stream, options.jobs)
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["tests/evidence/pool.py", *(Path(argument).name for argument in arguments)])
    about = (
        f"{datetime.now(UTC):%d %b %Y}, `{command}`, {len(tasks)} passes in {minutes:.1f} minutes, {options.jobs} side by side, "
        f"core {_core.simd_level()}."
    )
    write_report(folder, results, stream, speed, num_rows, about)
    print(verdict(results))
    print(f"written to {folder / 'POOL.md'}")


def run_all(tasks: Sequence[Task], stream: TowerStream, jobs: int) -> dict[str, list[PoolOutcome]]:
    """Return the outcomes of each variant by name, in the order of their seeds."""
    results: dict[str, list[PoolOutcome]] = {}
    for _, outcome in side_by_side(tasks, _learn, jobs, _receive, stream):
        results.setdefault(outcome.variant, []).append(outcome)
    for outcomes in results.values():
        outcomes.sort(key=lambda outcome: outcome.seed)
    return results


def _receive(stream: TowerStream) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing
    _streams.append(stream)


def _learn(variant: PoolVariant, seed: int) -> PoolOutcome:
    return learn(_streams[0], variant, seed)


if __name__ == "__main__":
    main(sys.argv[1:])
