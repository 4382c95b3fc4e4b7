"""Evidence for model architectures: AUC and cost of DCN-V2 and DLRM beside DeepFM on the shipped KuaiRand, and beside torch's plain DCN-V2.

Writes MODELS.md; every figure in it is measured in this run. Takes some minutes on two cores (`--jobs 2`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from intervals import half_width
from models_plain import PLAIN, learn_plain
from models_variants import VARIANTS, ModelVariant
from side_by_side import side_by_side
from tower_passes import TowerOutcome, learn
from tower_streams import TowerStream, criteo_stream, kuairand_stream

from monolith_py import _core

FOLDER = Path(__file__).parent
QUICK_EXAMPLES = 5_000

Results = dict[str, dict[str, list[TowerOutcome]]]  # by stream, then by variant

_streams: dict[str, TowerStream] = {}  # of a worker


def main(arguments: Sequence[str]) -> None:
    """Run all passes and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed on the first 5,000 impressions, to see that all of it runs")
    parser.add_argument("--folder", type=Path, help="where to write MODELS.md; required with --quick")
    parser.add_argument("--data", type=Path, help="a Parquet file of Criteo's layout, for plain torch beside the models, too")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of every model, 2 to 10")
    parser.add_argument("--jobs", type=int, default=1, help="passes side by side, one thread each; times are cleanest with one")
    options = parser.parse_args(arguments)
    if options.quick and options.folder is None:
        parser.error("--quick needs --folder: its results are no evidence and must not take the place of MODELS.md")
    limit = QUICK_EXAMPLES if options.quick else None
    streams = {"kuairand": kuairand_stream(limit)}
    if options.data is not None:
        streams["criteo"] = criteo_stream(options.data, limit)
    began_s = time.monotonic()
    results = run_all(streams, 1 if options.quick else options.seeds, options.jobs)
    minutes = (time.monotonic() - began_s) / 60
    folder = options.folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    command = "tests/evidence/models.py " + " ".join(Path(argument).name if "/" in argument else argument for argument in arguments)
    (folder / "MODELS.md").write_text(report(results, streams, command.strip(), minutes))


def run_all(streams: dict[str, TowerStream], num_seeds: int, jobs: int) -> Results:
    """Return the outcomes of all variants over all streams, by seed."""
    tasks = [(name, variant, seed) for name in streams for seed in range(num_seeds) for variant in VARIANTS]
    tasks += [("criteo", PLAIN, seed) for seed in range(num_seeds) if "criteo" in streams]
    found: Results = {name: {} for name in streams}
    for (name, variant, _), outcome in side_by_side(tasks, _learn, jobs, _receive, streams):
        found[name].setdefault(variant.name, []).append(outcome)
    return {
        name: {variant: sorted(outcomes, key=lambda one: one.seed) for variant, outcomes in of_stream.items()}
        for name, of_stream in found.items()
    }


def report(results: Results, streams: dict[str, TowerStream], command: str, minutes: float) -> str:
    """Return the text of MODELS.md."""
    lines = [
        "# Evidence: models",
        "",
        f"{datetime.now(UTC).strftime('%-d %b %Y')}, `{command}`, {minutes:.1f} minutes, core {_core.simd_level()}. "
        "Written by the run: edit the code, not this file.",
        "",
        "Each example is predicted, then learnt, once, in order of time, by the project's own bags, models and optimizer in fp32; "
        "tower 256-128-64 in all models. AUC and NE are of the scored part (KuaiRand-Pure: after two days; Criteo: the second half). "
        "Differences to DeepFM are in 1e-4 AUC on the same seeds, with the 95 % interval over seeds (Student's t). Times are processor "
        "time on one thread: ms of a step for all that is dense in the second half of the pass, and s of the whole pass. Plain torch: "
        "`nn.Embedding` of all ids known before, `torch.optim.Adagrad` on sparse gradients, Adam, with the rates of the others.",
    ]
    for name, of_stream in results.items():
        stream = streams[name]
        lines += ["", f"## {name}: {len(stream):,} examples, {stream.num_inputs} inputs, batch {stream.batch_size}", ""]
        lines += ["| model | AUC | NE | to DeepFM | ms | pass s |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [_row(variant, outcomes, of_stream[VARIANTS[0].name]) for variant, outcomes in of_stream.items()]
    return "\n".join(lines) + "\n"


def _row(variant: str, outcomes: list[TowerOutcome], base: list[TowerOutcome]) -> str:
    differences = [1e4 * (one.aucs[-1] - other.aucs[-1]) for one, other in zip(outcomes, base, strict=True)]
    to_base = f"{np.mean(differences):+.1f} ± {half_width(differences):.1f}" if outcomes is not base else "-"
    auc, ne = (
        np.mean([values[-1] for values in column]) for column in zip(*((o.aucs, o.normalized_entropies) for o in outcomes), strict=True)
    )
    ms, whole_s = np.mean([one.steady_ms for one in outcomes]), np.mean([one.whole_s for one in outcomes])
    return f"| {variant} | {auc:.4f} | {ne:.4f} | {to_base} | {ms:.2f} | {whole_s:.1f} |"


def _receive(streams: dict[str, TowerStream]) -> None:
    _streams.update(streams)


def _learn(name: str, variant: ModelVariant, seed: int) -> TowerOutcome:
    if variant == PLAIN:
        return learn_plain(_streams[name], seed)
    return learn(_streams[name], variant, seed)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1:])
