"""Evidence on the rounding of rows: what rows of fp16, int8 and int4 cost in a replica's AUC and NE on KuaiRand, and their error.

Writes ROUNDING.md; every figure in it is measured in this run. Takes about a minute of CPU for each seed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from intervals import half_width
from side_by_side import side_by_side
from sync_passes import HISTORY_BATCH, SCORED_BATCH, Figures, Learner, batches, figures_of
from sync_stream import NUM_QUICK, FloatArray, SyncStream, load_sync_stream

from monolith_py import _core
from monolith_py.sync import RowEncoding, pack_rows, row_bytes, unpack_rows
from monolith_py.table import EmbeddingTable

FOLDER = Path(__file__).parent
# Encoding of the rows of user and video, the large tables, and of author and tab.
ARMS: dict[str, tuple[RowEncoding, RowEncoding]] = {
    "fp32": (RowEncoding.FP32, RowEncoding.FP32),
    "fp16": (RowEncoding.FP16, RowEncoding.FP16),
    "int8": (RowEncoding.INT8, RowEncoding.INT8),
    "int4": (RowEncoding.INT4, RowEncoding.INT4),
    "int4, author and tab fp16": (RowEncoding.INT4, RowEncoding.FP16),
}
LARGE = ("user_id", "video_id")


@dataclass(frozen=True)
class Outcome:
    """Figures of one training run, by arm, and the error of each encoding over the rows at the end."""

    figures: Mapping[str, Figures]
    errors: Mapping[RowEncoding, float]  # root of the mean squared error over that of the weights
    num_rows: int
    dim: int


def run(stream: SyncStream, seed: int) -> Outcome:
    """Return the figures of replicas that get every batch, in each encoding, beside one training run."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    learner = Learner(stream, seed, has_counters=False)
    for rows in batches(0, stream.scored_from, HISTORY_BATCH):
        learner.learn(rows)
    scores = {arm: np.empty(len(stream) - stream.scored_from, np.float32) for arm in ARMS}
    for rows in batches(stream.scored_from, len(stream), SCORED_BATCH):
        learner.model.eval()
        for arm, encodings in ARMS.items():
            span = slice(rows.start - stream.scored_from, rows.stop - stream.scored_from)
            scores[arm][span] = _scores(learner, stream, rows, encodings)
        learner.learn(rows)
    labels, tables = stream.labels[stream.scored_from :], [*learner.bags.tables.values()]
    weights = np.concatenate([table.export_rows()[1] for table in tables])
    figures = {arm: figures_of(labels, one) for arm, one in scores.items()}
    return Outcome(figures, {one: _error(weights, one) for one in RowEncoding}, len(weights), tables[0].dim)


def _scores(learner: Learner, stream: SyncStream, rows: range, encodings: tuple[RowEncoding, RowEncoding]) -> FloatArray:
    """Return the scores of the impressions `rows` by a replica whose rows are in `encodings`."""
    tables: Mapping[str, EmbeddingTable] = learner.bags.tables
    pooled = []
    for name, fids in zip(stream.names, stream.fids[:, rows.start : rows.stop], strict=True):
        encoding = encodings[name not in LARGE]
        pooled.append(unpack_rows(pack_rows(tables[name].lookup(fids), encoding), tables[name].dim, encoding))
    with torch.no_grad():
        logits = learner.model(torch.from_numpy(np.concatenate(pooled, axis=1)), learner.dense(rows))
    scores: FloatArray = torch.sigmoid(logits).squeeze(1).numpy()
    return scores


def _error(weights: FloatArray, encoding: RowEncoding) -> float:
    restored = unpack_rows(pack_rows(weights, encoding), weights.shape[1], encoding)
    return float(np.sqrt(np.square(restored - weights, dtype=np.float64).mean() / np.square(weights, dtype=np.float64).mean()))


def report(stream: SyncStream, outcomes: Sequence[Outcome], about: str) -> str:
    """Return the page."""
    one = outcomes[0]
    lines = [
        "# Evidence: what the encoding of a replica's rows costs",
        "",
        f"{about} Written by the run: edit the code, not this file.",
        "",
        "The shipped KuaiRand-Pure, label long_view. DeepFM of user, video, author and tab, rows of dim 16, learns "
        f"{stream.scored_from:,} impressions of history, then scores each of the last {len(stream) - stream.scored_from:,} before it is "
        "learnt, with its rows rounded to an encoding as deltas and replicas hold them. Differences are paired by seed, ± is the 95 % "
        "interval over seeds (Student's t).",
        "",
        "| rows | bytes a row | error of a weight | AUC | less fp32 | NE | less fp32 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, encodings in ARMS.items():
        widths = sorted({row_bytes(one.dim, encoding) for encoding in encodings})
        error = "-" if len(widths) > 1 else f"{100 * np.mean([outcome.errors[encodings[0]] for outcome in outcomes]):.3g} %"
        cells = [arm, " and ".join(map(str, widths)), error]
        for field in ("auc", "ne"):
            values = [getattr(outcome.figures[arm], field) for outcome in outcomes]
            differences = [value - getattr(outcome.figures["fp32"], field) for value, outcome in zip(values, outcomes, strict=True)]
            change = "-" if arm == "fp32" else f"{np.mean(differences):+.5f} ± {half_width(differences):.5f}"
            cells += [f"{np.mean(values):.4f}", change]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Error of a weight: root of the mean squared error over the root mean square of the weights, over all rows at the end.",
        "",
    ]
    return "\n".join(lines)


def _run(seed: int) -> Outcome:
    return run(_given["stream"], seed)


_given: dict[str, SyncStream] = {}  # of a worker


def _receive(quick: bool) -> None:
    logging.disable(logging.WARNING)  # torch's on tracing
    _given["stream"] = load_sync_stream(quick=quick)


def main(arguments: Sequence[str]) -> None:
    """Run all seeds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{NUM_QUICK:,} impressions, to see that all of it runs; needs --folder")
    parser.add_argument("--folder", type=Path, help="where to write ROUNDING.md")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, 2 to 10; default 3")
    parser.add_argument("--jobs", type=int, default=1, help="seeds side by side, one thread each")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of ROUNDING.md")
    if not 2 <= options.seeds <= 10:
        parser.error(f"--seeds must be in [2, 10], got {options.seeds}")
    began_s = time.monotonic()
    found = dict(side_by_side([(seed,) for seed in range(options.seeds)], _run, options.jobs, _receive, options.quick))
    outcomes = [found[(seed,)] for seed in range(options.seeds)]
    minutes = (time.monotonic() - began_s) / 60
    about = (
        f"{options.seeds} seeds in {minutes:.1f} minutes, {options.jobs} side by side, busy machine, AMD EPYC (Zen 5, AVX-512), class B, "
        f"core {_core.simd_level()}."
    )
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ROUNDING.md").write_text(report(load_sync_stream(quick=options.quick), outcomes, about))
    print(f"written to {folder / 'ROUNDING.md'}")


if __name__ == "__main__":
    main(sys.argv[1:])
