"""Evidence on experts and attention: AUC and cost on KuaiRand beside one tower, two tasks, one progressive pass.

Writes EXPERTS.md; every figure in it is measured in this run. Takes about 8 minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from experts_variants import NUM_RECENT, TASKS, VARIANTS, Impressions, Variant, load_impressions
from intervals import half_width

import monolith_py
from monolith_py import _core
from monolith_py.training import Trainer, auc

FOLDER = Path(__file__).parent
NUM_SEEDS, MOST_SEEDS, BATCH_SIZE = 3, 10, 256
# Share of the impressions that only teach.
WARM_SHARE = 0.15


@dataclass(frozen=True)
class Outcome:
    """Figures of one pass."""

    aucs: tuple[float, ...]  # by task, of the impressions after the warm-up
    cpu_s: float  # of the pass, one thread
    experts: float  # mean number of experts with a weight for a task, in the last tenth; NaN without experts
    entropy: float  # mean entropy of the gates there, in nats


def run_pass(variant: Variant, seed: int, impressions: Impressions) -> Outcome:
    """Predict, then learn each impression once."""
    trainer = Trainer(variant.job(seed))
    predictions = np.empty((len(impressions), len(TASKS)), np.float32)
    last_tenth = len(impressions) - len(impressions) // 10
    began_s = time.process_time()
    for start in range(0, len(impressions), BATCH_SIZE):
        end = min(start + BATCH_SIZE, len(impressions))
        if start <= last_tenth < end and trainer.model.experts is not None:
            trainer.model.experts.report()
        predictions[start:end] = trainer.step(impressions.batch(start, end, trainer.schema.sparse_names))
    cpu_s = time.process_time() - began_s
    warm = round(len(impressions) * WARM_SHARE)
    aucs = tuple(auc(impressions.labels[task][warm:], predictions[warm:, place]) for place, task in enumerate(TASKS))
    report = None if trainer.model.experts is None else trainer.model.experts.report()
    if report is None:
        return Outcome(aucs, cpu_s, float("nan"), float("nan"))
    _, entropies, active = report
    return Outcome(aucs, cpu_s, float(active.mean()), float(entropies.mean()))


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help=f"seeds, 2 to {MOST_SEEDS}; default {NUM_SEEDS}")
    parser.add_argument("--limit", type=int, help="impressions, from the first on; all by default")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write EXPERTS.md")
    options = parser.parse_args(arguments)
    if not 2 <= options.seeds <= MOST_SEEDS:
        parser.error(f"--seeds must be in [2, {MOST_SEEDS}], got {options.seeds}")
    monolith_py.set_num_threads(1)
    impressions = load_impressions(options.limit)
    found: dict[str, list[Outcome]] = {variant.name: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            found[variant.name].append(run_pass(variant, seed, impressions))
            print(seed, variant.name, found[variant.name][-1], flush=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "EXPERTS.md").write_text(report_of(found, len(impressions)))


def report_of(found: dict[str, list[Outcome]], num: int) -> str:
    """Return the page."""
    num_seeds = len(next(iter(found.values())))
    lines = [
        "# Evidence: experts and attention",
        "",
        f"{datetime.now(UTC):%d %b %Y}, `tests/evidence/experts.py`, {num_seeds} seeds, AMD EPYC (Zen 5, AVX-512), class B, busy machine, "
        f"core {_core.simd_level()}. Written by the run: edit the code, not this file.",
        "",
        f"KuaiRand-Pure as shipped, the first {num:,} impressions in order of time, tasks long_view and click, features user, video, "
        f"author and tab of dim 16, without counters; the trainer of a job, fp32, batch {BATCH_SIZE}. Each impression is predicted, then "
        f"learnt, once; AUC is of the last {1 - WARM_SHARE:.0%}. Differences are in 1e-4 AUC to the reference on the same seeds, with the "
        "95 % interval over seeds (Student's t). CPU is that of a whole pass on one thread, the least over the seeds. Experts and entropy "
        f"(nats) are means of the gates in the last tenth. Recent videos: the last {NUM_RECENT} that the user viewed long, newest first, "
        "from plays that had ended.",
        "",
        "| model | reference | long_view | to reference | click | to reference | CPU s | experts | entropy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for variant in VARIANTS:
        outcomes = found[variant.name]
        cells = [variant.name, "-" if variant.name == variant.baseline else variant.baseline]
        for task in range(len(TASKS)):
            aucs = [one.aucs[task] for one in outcomes]
            pairs = zip(aucs, found[variant.baseline], strict=True)
            differences = [1e4 * (value - other.aucs[task]) for value, other in pairs]
            is_reference = variant.name == variant.baseline
            cells += [f"{np.mean(aucs):.4f}", "-" if is_reference else f"{np.mean(differences):+.1f} ± {half_width(differences):.1f}"]
        cells += [f"{min(one.cpu_s for one in outcomes):.1f}"]
        for values in ([one.experts for one in outcomes], [one.entropy for one in outcomes]):
            cells.append("-" if np.isnan(values).any() else f"{np.mean(values):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
