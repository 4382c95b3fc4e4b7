"""Evidence for the preset of sparse towers on many streams, beside dense, small dense, gmp, static, SET and RigL.

Writes TOWER_STREAMS.md. Outcomes are kept in a file of JSON lines: a second run only adds passes, and reports all.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import side_by_side
from tower_many_report import Result, Results, write_report
from tower_many_streams import SOURCES, Source
from tower_many_variants import VARIANTS
from tower_passes import learn
from tower_streams import TowerStream

from monolith_py import _core

FOLDER = Path(__file__).parent
QUICK_EXAMPLES = 4_000
# Passes between two looks at the clock; each batch starts new processes.
BATCH = 32

Task = tuple[str, str, int]  # stream, variant, seed

_streams: dict[str, TowerStream] = {}  # of a worker
_rates: dict[str, float] = {}


def main(arguments: Sequence[str]) -> None:
    """Run the passes that are missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the Parquet files of MIND, Criteo and Open Bandit; without it, without them")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where TOWER_STREAMS.md and tower_streams.jsonl are")
    parser.add_argument("--streams", nargs="+", choices=[source.name for source in SOURCES], help="all by default")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="all by default")
    parser.add_argument("--seeds", type=int, default=5, help="passes of each variant on each stream, up to 10")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each; times are cleanest with one")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no pass after that")
    parser.add_argument("--machine", default="", help="note on the machine, for the report")
    parser.add_argument("--quick", action="store_true", help="4,000 examples of each stream, to see that all of it runs; requires --folder")
    options = parser.parse_args(arguments)
    if options.quick and options.folder == FOLDER:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of TOWER_STREAMS.md")
    options.folder.mkdir(parents=True, exist_ok=True)
    kept = options.folder / "tower_streams.jsonl"
    results = read_results(kept)
    sources = [source for source in SOURCES if is_at_hand(source, options.data) and source.name in (options.streams or [source.name])]
    tasks = tasks_of(sources, options.variants or list(VARIANTS), options.seeds, results)
    run(tasks, sources, options, kept)
    write_report(options.folder / "TOWER_STREAMS.md", read_results(kept), SOURCES, f"core {_core.simd_level()}. {options.machine}".strip())
    print(f"written to {options.folder / 'TOWER_STREAMS.md'}")


def is_at_hand(source: Source, data: Path | None) -> bool:
    """Return whether the data of a stream are there."""
    return source.file is None or (data is not None and (data / source.file).exists())


def tasks_of(sources: Iterable[Source], variants: Sequence[str], num_seeds: int, known: Results) -> list[Task]:
    """Return the missing passes, seed by seed, so that other load on the machine meets all variants alike."""
    return [
        (source.name, variant, seed)
        for seed in range(num_seeds)
        for source in sources
        for variant in variants
        if seed not in known.get((source.name, variant), {})
    ]


def run(tasks: Sequence[Task], sources: Sequence[Source], options: argparse.Namespace, kept: Path) -> None:
    """Run the passes in small batches and append each outcome to `kept`."""
    limit = QUICK_EXAMPLES if options.quick else None
    names = {stream for stream, _, _ in tasks}
    streams = {source.name: source.make(options.data, limit) for source in sources if source.name in names}
    rates = {source.name: source.lr for source in sources}
    ends_s = time.monotonic() + 60 * options.minutes
    for start in range(0, len(tasks), BATCH):
        if time.monotonic() >= ends_s:
            print(f"{len(tasks) - start} passes were not started: {options.minutes} minutes are over")
            return
        batch = tasks[start : start + BATCH]
        given = ({name: streams[name] for name in {stream for stream, _, _ in batch}}, rates)
        with kept.open("a") as file:
            for (stream, variant, seed), outcome in side_by_side(batch, _learn, options.jobs, _receive, given):
                file.write(json.dumps({"stream": stream, "variant": variant, "seed": seed, **outcome}) + "\n")
                file.flush()


def read_results(path: Path) -> Results:
    """Return the outcomes of a file by stream and variant, then by seed."""
    results: Results = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        entry: dict[str, Any] = json.loads(line)
        key, seed = (entry.pop("stream"), entry.pop("variant")), entry["seed"]
        arrays = {"resampled": np.array(entry["resampled"], np.float32), "aucs": tuple(entry["aucs"])}
        results.setdefault(key, {})[seed] = Result(**entry | arrays)
    return results


def _receive(given: tuple[Mapping[str, TowerStream], Mapping[str, float]]) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing, and that a layer is too small to be sparse, which the densities show
    _streams.update(given[0])
    _rates.update(given[1])


def _learn(stream: str, name: str, seed: int) -> dict[str, Any]:
    variant = VARIANTS[name]
    outcome = learn(_streams[stream], replace(variant, lr=variant.lr * _rates[stream] / 1e-3), seed)
    result = Result(
        seed,
        outcome.aucs,
        outcome.normalized_entropies[0],
        outcome.resampled,
        outcome.live_weights,
        outcome.density,
        len(outcome.moves),
        outcome.steady_ms,
        outcome.whole_s,
    )
    return asdict(result) | {"resampled": [round(float(value), 6) for value in outcome.resampled]}


if __name__ == "__main__":
    main(sys.argv[1:])
