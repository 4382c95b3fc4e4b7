"""TOWER.md and its plots: tables of what was measured, and sentences made of the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tower_findings import Results, as_fast, bars, difference, mean_auc, mean_of, small_for
from tower_passes import NUM_WINDOWS
from tower_streams import DRIFT_FEATURE, DRIFT_VALUE, TowerStream
from tower_variants import (
    AT,
    BEST_RATE,
    BF16,
    CLAIMS,
    CONTROLS,
    DENSE,
    DRIFT,
    DRIFT_DENSE,
    DRIFT_ENDED,
    DRIFT_ONLINE,
    LADDER,
    RATES,
    SHARES,
    SMALL,
    WIDE_SHARES,
    WIDES,
    WIDTHS,
    TowerVariant,
)

_PLACES = tuple(enumerate(("before", "after", "end")))


def write_report(folder: Path, results: Mapping[str, Results], streams: Mapping[str, TowerStream], about: str) -> None:
    """Write TOWER.md, tower_time.png and tower_drift.png to `folder`; results by the name of their stream."""
    quality, drift = results["kuairand"], results["drift"]
    parts = [
        "# Evidence: sparse towers",
        "On one stream in depth; on many, beside other methods, in [TOWER_STREAMS.md](TOWER_STREAMS.md).",
        f"{about} Written by the run: edit the code, not this file.",
        _method(streams["kuairand"], quality),
        "## 1. Sparse towers against dense ones",
        _quality_table(quality, (*CLAIMS, *CONTROLS)),
        "```\n" + "\n".join(bar.line for bar in bars(quality)) + "\n```",
        "## 2. The same weights, the same time",
        read_width(quality),
        "![AUC by the time of a step](tower_time.png)",
        "## 3. In bf16",
        _quality_table(quality, BF16),
        "## 4. A forced drift half-way",
        _DRIFT_TEXT,
        _drift_table(drift),
        read_drift(drift),
        "![AUC on the way through the drift](tower_drift.png)",
        "## 5. Criteo",
        _criteo(results.get("criteo"), streams.get("criteo")),
    ]
    (folder / "TOWER.md").write_text("\n\n".join(parts) + "\n")
    _draw_time(quality, folder / "tower_time.png")
    _draw_drift(drift, len(streams["drift"]), folder / "tower_drift.png")


def read_width(results: Results) -> str:
    """Return in sentences where a wide sparse layer stands: to small dense towers of its weights, and to dense ones of its time."""
    sentences = []
    for share, (wide, *_) in WIDES.items():
        small, rival = small_for(results, share), as_fast(results, wide)
        sentences.append(
            f"{wide.name} ({mean_of(results, wide, 'live_weights'):,.0f} live): "
            f"{difference(results, wide, small).text} to the best small dense tower of as many weights ({small.name}), "
            f"{difference(results, wide, DENSE).text} to the dense 256-128-64. Its step takes {mean_of(results, wide, 'steady_ms'):.2f} "
            f"ms, that of the small dense tower {mean_of(results, small, 'steady_ms'):.2f} ms. Of the dense towers here whose step takes "
            f"no longer the best is {rival.name} ({mean_of(results, rival, 'steady_ms'):.2f} ms, "
            f"{mean_of(results, rival, 'live_weights'):,.0f} weights): {difference(results, wide, rival).text} to that."
        )
    level = [f"{difference(results, AT[share], small_for(results, share)).text} at {1 - share:.0%}" for share in AT]
    deep = [f"{difference(results, SMALL[share][-1], SMALL[share][0]).text} with {share:.0%} of the weights" for share in SHARES]
    sentences.append(
        f"A sparse 256-128-64 stands {' and '.join(level)} to the best small dense tower. Depth is no help on these features: small "
        f"dense towers of three layers stand {' and '.join(deep)} to those of one."
    )
    return "\n\n".join(sentences)


def read_drift(results: Results) -> str:
    """Return in sentences who recovers."""
    of = {(variant.name, span): difference(results, variant, DRIFT_DENSE, place).text for variant in DRIFT for place, span in _PLACES}
    last = max((step for outcome in results[DRIFT_ENDED.name] for step in outcome.moves), default=0)
    return (
        f"The published schedule, whose last swap came after step {last}, stands {of[DRIFT_ENDED.name, 'end']} to dense at the end, and "
        f"the dsl_online whose swaps start anew when the loss rises {of[DRIFT_ONLINE.name, 'end']}. Just after the drift they stand "
        f"{of[DRIFT_ENDED.name, 'after']} and {of[DRIFT_ONLINE.name, 'after']}: a dense tower has all its weights at hand, a sparse one "
        "must first find those that it needs now."
    )


_DRIFT_TEXT = (
    f"From the middle of the stream on the labels of all users with {DRIFT_FEATURE} = {DRIFT_VALUE}, half of the impressions, are "
    "reversed: they like what they did not. Towers of one layer of 256, sparse ones at 90 %. The published schedule has half of the pass "
    "as its run and has ended where the drift begins; dsl_online, but ended, is our own recipe stopped there, too. Differences to dense "
    "in 1e-4 AUC."
)


def _method(stream: TowerStream, results: Results) -> str:
    claims, controls = len(results[DENSE.name]), len(results[CONTROLS[0].name])
    _, warm_from, _ = stream.spans[0]
    return (
        f"KuaiRand-Pure as shipped, {len(stream):,} impressions in order of time, label long_view, the demo's {len(stream.features)} "
        f"features of dim 16 without counters; DeepFM, batch {stream.batch_size}, {stream.num_steps} steps, on the project's own bags, "
        "model and optimizer, in fp32 but for section 3. Each impression is predicted, then learnt, once; AUC and NE are of the last "
        f"{len(stream) - warm_from:,}.\n\n"
        f"Seeds: {claims} where claims are made, {controls} for the controls and the drift. Differences are in 1e-4 AUC on the same seeds, "
        "with the 95 % interval over seeds (Student's t); users is the 95 % interval of the difference to dense over users (bootstrap of "
        "whole users, the same resamples for both). Small dense towers have as many weights as the sparse ones have live; of those of one "
        f"layer, at {len(RATES)} rates, and of three the best on these seeds is what the column compares with, while the wide sparse layer "
        f"that claims are made for is that of {WIDTHS[0]}, picked on other seeds. Times are processor time on one thread: ms of a step for "
        "all that is dense (towers, loss, gradients, optimizer, swaps) in the second half of the pass, and s of the whole pass with bags "
        "and input. Rates and recipes were chosen on this very stream, for dense towers and sparse ones alike."
    )


def _quality_table(results: Results, variants: Sequence[TowerVariant]) -> str:
    head = ["tower", "setting", "live weights", "density", "AUC", "NE", "to dense", "users", "to small dense", "ms", "pass s"]
    return _markdown(head, [_quality_row(results, variant) for variant in variants])


def _quality_row(results: Results, variant: TowerVariant) -> list[str]:
    to_dense = difference(results, variant, DENSE)
    small = small_for(results, variant.share) if variant.share in SMALL else None
    return [
        variant.group,
        variant.label,
        f"{mean_of(results, variant, 'live_weights'):,.0f}",
        f"{mean_of(results, variant, 'density'):.3f}",
        f"{mean_auc(results, variant):.4f}",
        f"{np.mean([outcome.normalized_entropies[0] for outcome in results[variant.name]]):.4f}",
        "-" if variant is DENSE else to_dense.text,
        "-" if variant is DENSE else f"± {to_dense.over_users:.1f}",
        "-" if small is None or variant is small else difference(results, variant, small).text,
        f"{mean_of(results, variant, 'steady_ms'):.2f}",
        f"{mean_of(results, variant, 'whole_s'):.1f}",
    ]


def _drift_table(results: Results) -> str:
    rows = []
    for variant in DRIFT:
        outcomes = results[variant.name]
        middle = max(1, round(outcomes[0].num_steps / 2))
        swaps = np.mean([sum(step > middle for step in outcome.moves) for outcome in outcomes])
        rearmed = sorted({outcome.rearmed for outcome in outcomes if outcome.rearmed is not None})
        cells = [f"{mean_auc(results, variant, span):.4f}" for span in range(3)]
        gaps = ["-" if variant is DRIFT_DENSE else difference(results, variant, DRIFT_DENSE, span).text for span in range(3)]
        paired = [cell for pair in zip(cells, gaps, strict=True) for cell in pair]
        rows.append([variant.group, variant.label, *paired, f"{swaps:.0f}", ", ".join(map(str, rearmed)) or "-"])
    spans = [cell for span in ("before", "just after", "end") for cell in (f"AUC {span}", "to dense")]
    return _markdown(["tower", "setting", *spans, "swaps since", "armed anew at step"], rows)


def _criteo(results: Results | None, stream: TowerStream | None) -> str:
    if results is None or stream is None:
        return "Not in this run: the data may not be shipped. `tests/evidence/tower.py --data PATH` takes a Parquet file of its layout."
    text = (
        f"{len(stream):,} examples, the second half scored, {len(stream.features)} features of dim 8, batch {stream.batch_size}, "
        f"{stream.num_steps} steps."
    )
    return (
        f"{text}\n\n{_quality_table(results, (*CLAIMS, *CONTROLS))}\n\n" + "```\n" + "\n".join(bar.line for bar in bars(results)) + "\n```"
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _draw_time(results: Results, path: Path) -> None:
    """Draw AUC against the time of a step, and against the live weights."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    upwards = WIDE_SHARES[::-1]
    lines = {
        "dense, one layer": [*(SMALL[share][0] for share in upwards), *LADDER[::2]],
        f"dense, one layer, rate x{BEST_RATE}": [*(SMALL[share][RATES.index(BEST_RATE)] for share in upwards), *LADDER[1::2]],
        "dense, three layers": [*(SMALL[share][-1] for share in upwards), DENSE],
        "dsl_online 256-128-64": [AT[share] for share in reversed(SHARES)],
        **{f"dsl_online, one layer of {width}": [WIDES[share][place] for share in upwards] for place, width in enumerate(WIDTHS)},
    }
    axes = figure.subplots(1, 2, sharey=True)
    for field, label, place in (("steady_ms", "ms of a step for all that is dense", axes[0]), ("live_weights", "live weights", axes[1])):
        for name, variants in lines.items():
            across = [mean_of(results, variant, field) for variant in variants]
            auc = [mean_auc(results, variant) for variant in variants]
            error = [np.nan_to_num(difference(results, variant, DENSE).over_seeds) / 1e4 for variant in variants]
            place.errorbar(across, auc, yerr=error, marker="o", capsize=2, linestyle="-" if name.startswith("dsl") else ":", label=name)
        place.set_xlabel(label)
    axes[1].set_xscale("log")
    axes[0].set_ylabel("warm AUC (95 % of the difference to dense)")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _draw_drift(results: Results, num_examples: int, path: Path) -> None:
    """Draw the AUC of each window less that of the dense tower, and that of the dense tower itself."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    middles = (np.arange(NUM_WINDOWS) + 0.5) * num_examples / NUM_WINDOWS
    dense = np.mean([outcome.curve for outcome in results[DRIFT_DENSE.name]], axis=0)
    for variant in DRIFT:
        curve = np.mean([outcome.curve for outcome in results[variant.name]], axis=0)
        above.plot(middles, curve, label=variant.name)
        below.plot(middles, curve - dense)
    for axes in (above, below):
        axes.axvline(num_examples / 2, color="#888", linewidth=0.8, linestyle=":")
    above.set(title="Half of the users reverse their taste half-way", ylabel="AUC of a window")
    below.set(xlabel="examples", ylabel="less the dense tower's")
    above.legend(fontsize=8)
    figure.savefig(path, dpi=90)
