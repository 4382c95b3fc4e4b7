"""Evidence on negatives and delay: the price of sampling, windows and late labels in AUC and NE on KuaiRand.

Writes NEGATIVES.md; every figure in it is measured in this run. Takes about 5 minutes of one core.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from negatives_passes import PolicyOutcome, run_policy
from negatives_policies import POLICIES, Impressions, load_impressions
from negatives_report import write_report
from side_by_side import side_by_side

from monolith_py import _core

FOLDER = Path(__file__).parent
NUM_SEEDS, NUM_IMPRESSIONS, NUM_QUICK = 3, 30_000, 3_000
# Student's quantiles are known for so many (intervals.py).
MOST_SEEDS = 10

_given: dict[str, Impressions] = {}  # of a worker


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"two seeds on {NUM_QUICK:,} impressions, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write NEGATIVES.md; required with --quick")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help=f"seeds, 2 to {MOST_SEEDS}; default {NUM_SEEDS}")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of NEGATIVES.md")
    if not 2 <= options.seeds <= MOST_SEEDS:
        parser.error(f"--seeds must be in [2, {MOST_SEEDS}], got {options.seeds}")
    num_seeds, num = (2, NUM_QUICK) if options.quick else (options.seeds, NUM_IMPRESSIONS)
    began_s = time.monotonic()
    tasks = [(place, seed) for seed in range(num_seeds) for place in range(len(POLICIES))]
    found: dict[tuple[int, int], PolicyOutcome] = dict(side_by_side(tasks, _run, options.jobs, _receive, num))
    outcomes = {policy.name: [found[place, seed] for seed in range(num_seeds)] for place, policy in enumerate(POLICIES)}
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    about = (
        f"{datetime.now(UTC):%d %b %Y}, commit {_commit()}, {num_seeds} seeds of {len(POLICIES)} policies in {minutes:.1f} minutes, "
        f"{options.jobs} side by side, AMD EPYC, busy machine, core {_core.simd_level()}."
    )
    write_report(folder, outcomes, load_impressions(num), about)
    print(f"written to {folder / 'NEGATIVES.md'}")


def _receive(num: int) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing
    _given["impressions"] = load_impressions(num)


def _run(place: int, seed: int) -> PolicyOutcome:
    return run_policy(_given["impressions"], POLICIES[place], seed)


def _commit() -> str:
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
