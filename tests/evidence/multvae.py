"""The table of Dynamic Sparse Learning (Wang et al. 2024) for MultVAE, on any user-item matrix: `multvae.py [PATH]`.

Users are split for strong generalisation (Liang et al. 2018); all numbers are of the last epoch on the held-out users, nothing is chosen
on them. In brackets: the difference to the dense model on the same seeds, with its 95 % interval. Without a path it runs on the long
views of the shipped KuaiRand, which are few for each user: a small demonstration of some five minutes. The paper's budget is
`multvae.py PATH --batch-size 16 --every 100`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import half_width
from multvae_data import BadMatrix, Matrix, Split, load_matrix, split_users
from multvae_model import Learner, MultVae, Recipe, rank_metrics

from monolith_demo.dataset import kuairand
from monolith_py import _core
from monolith_py.config.sparsity import SparsityConfig

PRESETS = ("dense", "small", "static", "set", "rigl", "dsl", "dsl_online")
METRICS = ("Recall@20", "Recall@50", "NDCG@100")
MOST_SEEDS = 10


def main(arguments: Sequence[str]) -> int:
    """Learn every preset at every density and print the table."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    _core.set_num_threads(options.threads)
    logging.basicConfig(format="%(message)s")
    try:
        matrix = load_matrix(options.path, options.columns) if options.path else kuairand_long_views()
    except BadMatrix as error:
        print(error, file=sys.stderr)
        return 1
    recipe = Recipe(epochs=options.epochs, batch_size=options.batch_size, anneal_steps=options.anneal_steps)
    print(f"{options.path or 'KuaiRand, long views'}: {len(matrix):,} users, {matrix.num_items:,} items, {len(matrix.items):,} pairs")
    print("| preset | density | live weights | " + " | ".join(METRICS) + " | s per epoch |\n|" + " --- |" * (4 + len(METRICS)))
    dense: list[dict[str, float]] = []
    for preset in sorted(options.presets, key=lambda preset: preset != "dense"):
        for density in options.densities if preset != "dense" else (1.0,):
            runs = [_run(matrix, preset, density, recipe, seed, options) for seed in range(options.seeds)]
            dense = runs if preset == "dense" else dense
            print(_row(preset, density, runs, dense), flush=True)
    return 0


def kuairand_long_views() -> Matrix:
    """Return the pairs of the shipped KuaiRand with long_view = 1."""
    stream = kuairand.load_stream()
    users, items = stream.users[stream.long_views], stream.videos[stream.long_views]
    known_users, rows = np.unique(users, return_inverse=True)
    known_items, columns = np.unique(items, return_inverse=True)
    return Matrix.of_pairs(rows, columns, len(known_users), len(known_items))


def sparsity_of(preset: str, density: float, num_steps: int, every: int, atom: str | None) -> SparsityConfig:
    """Return the settings of a preset for a run of so many steps.

    Atoms are single weights, as published, but for dsl_online, unless `atom` says otherwise. `small` is a dense model.
    """
    if preset in ("dense", "small"):
        return SparsityConfig()
    settings: dict[str, Any] = {"preset": preset, "density": density, "atom": atom or ("16x1" if preset == "dsl_online" else "1x1")}
    if preset != "static":
        settings["update_interval"] = every
    if preset == "rigl":
        settings["cosine_steps"] = max(1, round(0.75 * num_steps))
    if preset == "dsl":
        settings["cosine_steps"] = num_steps
    if preset == "dsl_online":
        begin = max(1, round(0.05 * num_steps))
        settings |= {
            "ramp": (begin, max(begin + 1, round(0.4 * num_steps))),
            "drop_fraction_schedule": "constant",
            "drop_fraction_max": 0.1,
        }
    return SparsityConfig(**settings)


def _run(matrix: Matrix, preset: str, density: float, recipe: Recipe, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the metrics of one model, its live weights and its time."""
    split: Split = split_users(matrix, np.random.default_rng(seed), options.held_out, options.least)
    num_steps = recipe.epochs * -(-len(split.train) // recipe.batch_size)
    if preset == "small":  # as many weights as the sparse ones have live: nearly all are those of items
        recipe = Recipe(
            max(1, round(recipe.hidden * density)),
            max(1, round(recipe.latent * density)),
            recipe.epochs,
            recipe.batch_size,
            anneal_steps=recipe.anneal_steps,
        )
    sparsity = sparsity_of(preset, density, num_steps, options.every or min(100, max(1, num_steps // 30)), options.atom)
    model = MultVae(split.train.num_items, recipe, sparsity, seed)
    learner = Learner(model, recipe, sparsity, seed)
    order = np.random.default_rng(seed)
    began_s = time.thread_time()
    for epoch in range(1, recipe.epochs + 1):
        learner.epoch(split.train, order)
        if epoch == 1 or epoch % max(1, recipe.epochs // 10) == 0:
            passed = (time.thread_time() - began_s) / epoch
            print(f"{preset} {density:g}, seed {seed}: epoch {epoch} of {recipe.epochs}, {passed:.2f} s each", file=sys.stderr, flush=True)
    seconds = (time.thread_time() - began_s) / recipe.epochs
    return rank_metrics(model, split) | {"weights": model.num_live_weights, "seconds": seconds}


def _row(preset: str, density: float, runs: Sequence[dict[str, float]], dense: Sequence[dict[str, float]]) -> str:
    """Return a row of the table; differences are to the dense model of the same seed, which has the same split."""
    cells = [preset, f"{density:g}", f"{np.mean([run['weights'] for run in runs]):,.0f}"]
    for name in METRICS:
        cell = f"{np.mean([run[name] for run in runs]):.4f}"
        if dense and preset != "dense":
            ahead = [run[name] - other[name] for run, other in zip(runs, dense, strict=True)]
            cell += f" ({np.mean(ahead):+.4f}" + (f" ± {half_width(ahead):.4f})" if len(ahead) > 1 else ")")
        cells.append(cell)
    return f"| {' | '.join(cells)} | {np.mean([run['seconds'] for run in runs]):.2f} |"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        help=".parquet or .csv with columns user, item[, weight], or .npz of a CSR matrix",
    )
    parser.add_argument(
        "--columns", nargs=3, metavar=("USER", "ITEM", "WEIGHT"), help="names in a table, where others; WEIGHT may be absent"
    )
    parser.set_defaults(columns=("user", "item", "weight"))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS, help="small: dense, with as many weights as are live")
    parser.add_argument(
        "--densities", nargs="+", type=float, help="shares of the weights that live; by default 0.5 0.2 0.1, without a path 0.2"
    )
    parser.add_argument("--seeds", type=int, default=3, help=f"1 to {MOST_SEEDS}; they change split, start values and batches")
    parser.add_argument("--epochs", type=int, help="by default 200, without a path 5")
    parser.add_argument("--batch-size", type=int, default=100, help="users of a batch")
    parser.add_argument("--every", type=int, help="steps between swaps; by default 30 swaps in the run, at most 100 steps apart")
    parser.add_argument("--anneal-steps", type=int, default=200_000, help="steps over which the weight of the KL rises")
    parser.add_argument("--atom", choices=("1x1", "16x1"), help="for all presets; by default 16x1 for dsl_online and 1x1 for the others")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the users to test with")
    parser.add_argument("--least", type=int, default=5, help="items of a user to be in the split")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    options.epochs = (200 if options.path else 5) if options.epochs is None else options.epochs
    options.densities = options.densities or ([0.5, 0.2, 0.1] if options.path else [0.2])
    for name, low, high in (
        ("seeds", 1, MOST_SEEDS),
        ("epochs", 1, None),
        ("batch_size", 1, None),
        ("every", 1, None),
        ("threads", 1, None),
    ):
        value = getattr(options, name)
        if value is not None and not (low <= value and (high is None or value <= high)):
            parser.error(f"--{name.replace('_', '-')} must be in [{low}, {high or 'any'}], got {value}")
    if not 0 < options.held_out < 1:
        parser.error(f"--held-out must be in (0, 1), got {options.held_out}")
    if not all(0 < density < 1 for density in options.densities):
        parser.error(f"--densities must be in (0, 1), got {options.densities}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
