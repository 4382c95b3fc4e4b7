"""Evidence on synchronization: what serving older rows, dense parameters and counters costs on KuaiRand, and what a lost snapshot costs.

Monolith's comparison of sync intervals (Liu et al. 2022, arXiv 2209.07663, table 2). Writes SYNC.md; every figure in it is measured in this
run. Takes about 6 minutes of one core.
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

from side_by_side import side_by_side
from sync_passes import LossOutcome, SyncOutcome, run_losses, run_sync
from sync_policies import COUNTERS, IDS
from sync_report import Results, write_report
from sync_stream import NUM_QUICK, SyncStream, load_sync_stream

from monolith_py import _core

FOLDER = Path(__file__).parent
NUM_SEEDS = 3
# Student's quantiles are known for so many (intervals.py).
MOST_SEEDS = 10

_given: dict[str, SyncStream] = {}  # of a worker


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"two seeds on {NUM_QUICK:,} impressions, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write SYNC.md; required with --quick")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help=f"seeds, 2 to {MOST_SEEDS}; default {NUM_SEEDS}")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of SYNC.md")
    if not 2 <= options.seeds <= MOST_SEEDS:
        parser.error(f"--seeds must be in [2, {MOST_SEEDS}], got {options.seeds}")
    num_seeds = 2 if options.quick else options.seeds
    began_s = time.monotonic()
    tasks = [(what, seed) for seed in range(num_seeds) for what in ("ids", "counters", "losses")]
    found = dict(side_by_side(tasks, _run, options.jobs, _receive, options.quick))
    results = Results(*([found[what, seed] for seed in range(num_seeds)] for what in ("ids", "counters", "losses")))  # type: ignore[arg-type]
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    about = (
        f"{datetime.now(UTC):%d %b %Y}, commit {_commit()}, {num_seeds} seeds in {minutes:.1f} minutes, {options.jobs} side by side, "
        f"busy machine, AMD EPYC (Zen 5, AVX-512), class B, core {_core.simd_level()}."
    )
    write_report(folder, results, load_sync_stream(quick=options.quick), about)
    print(f"written to {folder / 'SYNC.md'}")


def _receive(quick: bool) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing
    _given["stream"] = load_sync_stream(quick=quick)


def _run(what: str, seed: int) -> SyncOutcome | LossOutcome:
    stream = _given["stream"]
    if what == "losses":
        return run_losses(stream, seed)
    return run_sync(stream, seed, IDS if what == "ids" else COUNTERS, has_counters=what == "counters")


def _commit() -> str:
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
