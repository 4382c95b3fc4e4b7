"""Evidence that online learning pays: live, hourly, daily and frozen models on four streams, beside controls without our model.

Writes ONLINE.md and its plots; every figure in them is measured in this run. Takes about 25 minutes on two cores (`--jobs 2`).
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

from online_passes import HistoryOutcome, StreamOutcome, merged, run_history, run_stream, stream_of
from online_report import write_report
from online_variants import CLAIMS, RECIPES, STREAMS, differs
from side_by_side import side_by_side

from monolith_py import _core

FOLDER = Path(__file__).parent
DATA = FOLDER.parents[2] / "shared" / "data"
NUM_SEEDS, NUM_RECIPE_SEEDS = 5, 2
# Student's quantiles are known for so many (intervals.py).
MOST_SEEDS = 10
# Streams whose data may not be shipped, and their files.
_FILES = {"mind": "mind_5k.parquet", "obd": "obd_60k.parquet"}

Task = tuple[str, str, int]  # claims or recipes, stream, seed; or history, stream, number of seeds

_options: dict[str, tuple[Path, bool]] = {}  # of a worker: folder of data, quick


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds on the first requests of each stream, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write ONLINE.md and its plots; required with --quick")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with {' and '.join(_FILES.values())}; default {DATA}")
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=STREAMS, help="streams to run; default all")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help=f"seeds, 2 to {MOST_SEEDS}; default {NUM_SEEDS}")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of ONLINE.md")
    if not 2 <= options.seeds <= MOST_SEEDS:
        parser.error(f"--seeds must be in [2, {MOST_SEEDS}], got {options.seeds}")
    streams = [name for name in options.streams if name not in _FILES or (options.data / _FILES[name]).exists()]
    for name in sorted(set(options.streams) - set(streams)):
        print(f"{name} is left out: {options.data / _FILES[name]} is not there")
    began_s = time.monotonic()
    num_seeds = 2 if options.quick else options.seeds
    results, histories = run_all(streams, num_seeds, options.jobs, (options.data, options.quick))
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["tests/evidence/online.py", *(Path(argument).name for argument in arguments)])
    about = (
        f"{datetime.now(UTC):%d %b %Y}, commit {_commit()}, `{command}`, {num_seeds} seeds in {minutes:.1f} minutes, {options.jobs} side "
        f"by side, core {_core.simd_level()}."
    )
    origins = {name: stream_of(name, 0, options.data, quick=options.quick).about for name in streams}
    for bar in write_report(folder, results, histories, origins, about):
        print(bar.line)
    print(f"written to {folder / 'ONLINE.md'}")


def run_all(
    streams: Sequence[str], num_seeds: int, jobs: int, given: tuple[Path, bool]
) -> tuple[dict[str, list[StreamOutcome]], dict[str, HistoryOutcome]]:
    """Return the outcomes of each stream in the order of their seeds, and those of its history."""
    tasks = tasks_of(streams, num_seeds)
    results: dict[str, dict[int, StreamOutcome]] = {stream: {} for stream in streams}
    histories: dict[str, HistoryOutcome] = {}
    for (what, stream, seed), outcome in side_by_side(tasks, _run, jobs, _receive, given):
        if what == "history":
            histories[stream] = outcome
        else:
            earlier = results[stream].get(seed)
            results[stream][seed] = outcome if earlier is None else merged(earlier, outcome)
    by_seed = {stream: [outcomes[seed] for seed in sorted(outcomes)] for stream, outcomes in results.items()}
    return by_seed, {stream: histories[stream] for stream in streams}


def tasks_of(streams: Sequence[str], num_seeds: int) -> list[Task]:
    """Return all passes."""
    tasks: list[Task] = [("history", stream, num_seeds) for stream in streams]
    tasks += [("claims", stream, seed) for seed in range(num_seeds) for stream in streams]
    return tasks + [("recipes", stream, seed) for seed in range(min(num_seeds, NUM_RECIPE_SEEDS)) for stream in streams]


def _receive(given: tuple[Path, bool]) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing, and that a layer is too small to be sparse
    _options["given"] = given


def _run(what: str, stream: str, number: int) -> StreamOutcome | HistoryOutcome:
    data, quick = _options["given"]
    if what == "history":
        return run_history(stream_of(stream, 0, data, quick=quick), range(number))
    variants = CLAIMS if what == "claims" else RECIPES
    return run_stream(stream_of(stream, number, data, quick=quick), number, [one for one in variants if differs(one, stream)])


def _commit() -> str:
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True, check=False
    ).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
