"""TOWER_STREAMS.md: for each stream a table, and the bars over all of them.

Letters: R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from intervals import FloatArray
from tower_findings import Difference, paired
from tower_many_streams import Source
from tower_many_variants import DENSE, SHARES, SPARSE, VARIANTS, dense_ones, small_of

# How much AUC the preset may be below dense, and the share of dense's step that it may take.
_BARS = {80: 0.0010, 90: 0.0020}
_TIME = 0.5


@dataclass(frozen=True)
class Result:
    """Outcome of one pass; times are processor time on one thread."""

    seed: int
    aucs: tuple[float, ...]
    ne: float
    resampled: FloatArray  # (R,) AUC for each resample of users or requests
    live_weights: int
    density: float
    num_moves: int
    steady_ms: float
    whole_s: float


Results = dict[tuple[str, str], dict[int, Result]]  # by stream and variant, then by seed


def write_report(path: Path, results: Results, sources: Sequence[Source], about: str) -> None:
    """Write the report of all results."""
    known = [source for source in sources if (source.name, DENSE) in results]
    parts = [
        "# Evidence: sparse towers on many streams",
        f"`tests/evidence/tower_many.py`, {about} Written by the run: edit the code, not this file.",
    ]
    parts += [_METHOD, "## Bars", "```\n" + "\n".join(_bars(results, known)) + "\n```"]
    for source in known:
        parts += [f"## {source.name}", f"{source.about}. {_CHOSEN[source.is_chosen_on]}", _table(results, source.name)]
    path.write_text("\n\n".join(parts) + "\n")


_CHOSEN = {
    True: "The recipe was chosen on this stream among others.",
    False: "The recipe was fixed before its figures here were looked at.",
}
_METHOD = (
    "Each example is predicted, then learnt, once, by DeepFM with the project's bags, model and optimizer, in fp32; AUC and NE are of "
    "the second half (KuaiRand: from its first warm day on). Dense is 256-128-64. dsl_online is the preset as it is, with a ramp from "
    "5 to 20 % of the pass and an update every 25 steps; gmp and static have atoms of 16x1, too, SET and RigL of single weights as "
    "published. Small dense: one layer with as many weights as the sparse towers have live, at the rate of dense and at four times "
    "that. Rates of rows and of dense were picked for the dense tower.\n\n"
    "Differences are in 1e-4 AUC on the same seeds, with the 95 % interval over seeds (Student's t); users is the 95 % interval of "
    "the mean difference over resamples of users or requests. ms: processor time of a step in the second half of the pass for all "
    "that is dense (towers, loss, gradients, optimizer, swaps), beside other passes: compare within a stream."
)


def _bars(results: Results, sources: Sequence[Source]) -> Iterator[str]:
    for source in sources:
        for percent, bar in _BARS.items():
            own = f"dsl_online {percent}"
            if (source.name, own) not in results:
                continue
            to_dense = _difference(results, source.name, own, DENSE)
            met = to_dense.mean / 1e4 >= -bar
            yield _line(f"{source.name}.{percent}_vs_dense", to_dense, f"mean at least -{bar:.4f}", met)
            for name, rival in _rivals(results, source.name, percent).items():
                gap = _difference(results, source.name, own, rival)
                yield _line(f"{source.name}.{percent}_vs_{name}", gap, f"not below by more than its interval ({rival})", gap.high >= 0)
            share = _median(results, source.name, own, "steady_ms") / _median(results, source.name, DENSE, "steady_ms")
            yield f"figure tower.{source.name}.{percent}_step_time {share:.2f} of dense's (bar: <= {_TIME}, {_verdict(share <= _TIME)})"


def _rivals(results: Results, stream: str, percent: int) -> Mapping[str, str]:
    """Return the controls of the bars by name: gmp, static, the best small dense of equal weights and the best dense of equal time."""
    found = {method: f"{method} {percent}" for method in SPARSE if method != "dsl_online"}
    own_ms = _median(results, stream, f"dsl_online {percent}", "steady_ms")
    small = [name for name in small_of(percent) if (stream, name) in results]
    fast = [name for name in dense_ones() if (stream, name) in results and _median(results, stream, name, "steady_ms") <= own_ms]
    for label, names in (("small_dense", small), ("dense_as_fast", fast)):
        if names:
            found[label] = max(names, key=lambda name: _mean_auc(results, stream, name))
    return {label: name for label, name in found.items() if (stream, name) in results}


def _line(name: str, difference: Difference, rule: str, met: bool) -> str:
    interval = f"± {difference.over_seeds / 1e4:.6f} over seeds, ± {difference.over_users / 1e4:.6f} over users"
    return f"figure tower.{name} {difference.mean / 1e4:+.6f} AUC ({interval}; bar: {rule}, {_verdict(met)})"


def _verdict(met: bool) -> str:
    return "pass" if met else "FAIL"


def _table(results: Results, stream: str) -> str:
    head = ["tower", "seeds", "live weights", "AUC", "NE", "to dense", "users", "swaps", "ms", "of dense's", "pass s"]
    lines = [head, ["---"] * len(head)]
    for name in VARIANTS:
        if (stream, name) not in results:
            continue
        outcomes = list(results[stream, name].values())
        gap = _difference(results, stream, name, DENSE)
        ms = _median(results, stream, name, "steady_ms")
        lines.append(
            [
                name,
                f"{len(outcomes)}",
                f"{outcomes[0].live_weights:,}",
                f"{_mean_auc(results, stream, name):.4f}",
                f"{np.mean([outcome.ne for outcome in outcomes]):.4f}",
                "-" if name == DENSE else gap.text,
                "-" if name == DENSE else f"± {gap.over_users:.1f}",
                f"{np.mean([outcome.num_moves for outcome in outcomes]):.0f}",
                f"{ms:.2f}",
                f"{ms / _median(results, stream, DENSE, 'steady_ms'):.2f}",
                f"{np.median([outcome.whole_s for outcome in outcomes]):.1f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _difference(results: Results, stream: str, name: str, reference: str) -> Difference:
    return paired(list(results[stream, name].values()), list(results[stream, reference].values()))


def _mean_auc(results: Results, stream: str, name: str) -> float:
    return float(np.mean([outcome.aucs[0] for outcome in results[stream, name].values()]))


def _median(results: Results, stream: str, name: str, field: str) -> float:
    return float(np.median([getattr(outcome, field) for outcome in results[stream, name].values()]))


assert set(SHARES) == set(_BARS)
