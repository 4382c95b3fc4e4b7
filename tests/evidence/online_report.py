"""ONLINE.md and its plots: tables of what was measured, and sentences made of the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from online_findings import Bar, Outcomes, Pick, arm, bars, best_vowpal, control, difference, first, mean_of, spread_of
from online_passes import NUM_PARTS, HistoryOutcome
from online_variants import BY_EMIT, CLAIMS, DEFAULT, NO_USER, OTHER, RECIPES, SLICE_S, OnlineVariant

_ARMS = ("live", "hourly", "daily", "frozen")


def write_report(
    folder: Path, results: Mapping[str, Outcomes], histories: Mapping[str, HistoryOutcome], origins: Mapping[str, str], about: str
) -> list[Bar]:
    """Write ONLINE.md and a plot for each stream to `folder` and return the bars."""
    found = bars(results, histories)
    parts = [
        "# Evidence: online learning",
        f"{about} Written by the run: edit the code, not this file.",
        _METHOD,
        "\n".join(f"- **{name}**: {origin}; scored in slices of {SLICE_S[name]:.0f} s." for name, origin in origins.items()),
        "## 1. The bars",
        _bar_table(found),
        read_bars(found),
    ]
    for number, (name, outcomes) in enumerate(results.items(), start=2):
        parts += [f"## {number}. {name}", _about_stream(outcomes), _stream_table(outcomes), f"![AUC over time](online_{name}.png)"]
        _draw(name, outcomes, folder / f"online_{name}.png")
    number = len(results) + 2
    parts += [f"## {number}. What a request teaches", _EMIT_TEXT, _emit_table(results)]
    parts += [f"## {number + 1}. History joined in one go, and replayed", _HISTORY_TEXT, _history_table(histories)]
    parts += [f"## {number + 2}. Recipes against the defaults", _RECIPE_TEXT, _recipe_table(results), _DEAD_ENDS]
    (folder / "ONLINE.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    return found


_METHOD = (
    "Each stream is written to a SQLite log as impressions and actions; `monolith_streaming.backtest` joins it, scores each request with "
    "the weights of that moment and learns each example when the online joiner would emit it. AUC is over all candidates, per request the "
    "mean AUC of the requests with both labels (- where requests have one candidate), calibration is mean score over mean label, all from "
    "scores made at request time, of the first task where nothing else is said. Settings are the defaults but for features, tasks and what "
    "is named. ± is the 95 % interval over seeds (Student's t, paired by seed), in brackets that of the mean over resampled requests "
    "(KuaiRand: users), the same resamples for both sides. A seed is that of the job, of the drawn click delays and of the generated "
    "world. Vowpal Wabbit has the same features, predicts at the request and learns each label when it is known; the best of its settings "
    "on the scored requests is compared with, which favours it. Popularity is the smoothed rate of an item among the examples known at "
    "the request."
)
_EMIT_TEXT = (
    '`joiner.emit = "candidate"` learns each candidate once its labels are known, "request" all candidates of a request together. Age is '
    "the median time from a request to the learning of one of its positives. A click that is learnt ten minutes ahead of the other "
    "candidates meets the row of its user before that row has learnt anything from the request; the others meet it afterwards. A model can "
    "read the label from that: new rows of a user mean a click, trained ones none. It then serves new users too high. Without the feature "
    "user_id, the row with this hint is gone. Requests of one candidate are emitted alike."
)
_HISTORY_TEXT = (
    "The history of each stream is joined by `monolith join --stop-at-end` from one backlog, and by `monolith replay`; the trainer learns "
    "each topic of examples, and the model, frozen, scores the other requests."
)
_RECIPE_TEXT = (
    "Live AUC less that of the defaults, paired by seed, and calibration of live in brackets. A recipe is better only if it is better on "
    "all streams."
)
_DEAD_ENDS = (
    "Tried by hand on one or two seeds before this run, so without figures here. First-order weights scaled by 4 or 10 from the start: "
    "better on one stream, worse on another. Fixed rates of the rows of 0.05 and above: better on lists with few features, worse on "
    "KuaiRand. Adam and FTRL for the rows: no better on all streams. Vowpal Wabbit at rates of 0.02 and 2 and with FTRL: worse than the "
    "settings in the tables. A bias of 0 at the start: the rows of features with few ids learn the label rate, and a frozen model predicts "
    "too high where such an id is new."
)


def read_bars(found: Sequence[Bar]) -> str:
    """Return in a sentence what is missed."""
    open_end = "; the interval holds the bar, so these data cannot tell"
    missed = [
        f"{bar.name} on {bar.stream} ({bar.text}, wanted {bar.rule}{open_end if bar.is_open else ''})" for bar in found if not bar.is_met
    ]
    if not missed:
        return f"All {len(found)} are met."
    return f"{len(found) - len(missed)} of {len(found)} are met. Missed: {'; '.join(missed)}."


def _bar_table(found: Sequence[Bar]) -> str:
    head = ["bar", "stream", "measured", "wanted", "met"]
    return _markdown(head, [[bar.name, bar.stream, bar.text, bar.rule, "yes" if bar.is_met else "**no**"] for bar in found])


def _about_stream(outcomes: Outcomes) -> str:
    of = outcomes[0]
    oracle = float(np.mean([outcome.oracle for outcome in outcomes]))
    truth = "" if math.isnan(oracle) else f" The true probabilities have an AUC of {oracle:.4f}."
    return (
        f"{of.num_requests:,} requests with {of.num_candidates:,} candidates are scored, {of.num_positives:,} of them positive for "
        f"{first(of.arms[DEFAULT.name, 'live'])}; {len(outcomes)} seeds.{truth}"
    )


def _stream_table(outcomes: Outcomes) -> str:
    rows = [_row(outcomes, f"{DEFAULT.label}: {name}", arm(DEFAULT.name, name)) for name in _ARMS]
    for variant in CLAIMS[1:]:
        for one in variant.arms:
            if (variant.name, one.name) in outcomes[0].arms:
                rows.append(_row(outcomes, f"{variant.label}: {one.name}", arm(variant.name, one.name)))
    rows += [_row(outcomes, name.replace("vowpal", "Vowpal Wabbit"), control(name)) for name in outcomes[0].controls]
    others = list(outcomes[0].arms[DEFAULT.name, "live"].figures)[1:]
    return _markdown(["scores", "AUC", "per request", "NE", "calibration", "less frozen", *(f"AUC {task}" for task in others)], rows)


def _row(outcomes: Outcomes, label: str, pick: Pick) -> list[str]:
    cells = [label, f"{mean_of(outcomes, pick, 'auc'):.4f} ± {_number(spread_of(outcomes, pick, 'auc'))}"]
    cells += [_number(mean_of(outcomes, pick, "per_impression_auc")), f"{mean_of(outcomes, pick, 'ne'):.4f}"]
    cells += [f"{mean_of(outcomes, pick, 'calibration'):.3f} ± {_number(spread_of(outcomes, pick, 'calibration'), 3)}"]
    cells += [difference(outcomes, pick, arm(DEFAULT.name, "frozen")).text]
    for task in list(outcomes[0].arms[DEFAULT.name, "live"].figures)[1:]:
        cells.append(f"{mean_of(outcomes, pick, 'auc', task):.4f}" if task in pick(outcomes[0]).figures else "-")
    return cells


def _emit_table(results: Mapping[str, Outcomes]) -> str:
    rows = []
    for stream, outcomes in results.items():
        emits = {**BY_EMIT, "candidate, without user_id": NO_USER}
        if (OTHER.name, "live") not in outcomes[0].arms:
            emits = {"either": DEFAULT}
        rows += [_emit_row(stream, outcomes, emit, variant) for emit, variant in emits.items()]
    return _markdown(
        ["stream", "emit", "live AUC", "less candidate", "per request", "NE", "calibration", "frozen calibration", "age"], rows
    )


def _emit_row(stream: str, outcomes: Outcomes, emit: str, variant: OnlineVariant) -> list[str]:
    pick, candidate = arm(variant.name), BY_EMIT["candidate"]
    has_other = emit != "either" and variant is not candidate
    frozen = (variant.name, "frozen") in outcomes[0].arms
    age_s = np.mean([outcome.label_age_s["request" if emit == "request" else "candidate"] for outcome in outcomes])
    return [
        stream,
        emit,
        f"{mean_of(outcomes, pick, 'auc'):.4f}",
        difference(outcomes, pick, arm(candidate.name)).text if has_other else "-",
        _number(mean_of(outcomes, pick, "per_impression_auc")),
        f"{mean_of(outcomes, pick, 'ne'):.4f}",
        f"{mean_of(outcomes, pick, 'calibration'):.3f} ± {_number(spread_of(outcomes, pick, 'calibration'), 3)}",
        f"{mean_of(outcomes, arm(variant.name, 'frozen'), 'calibration'):.3f}" if frozen else "-",
        f"{age_s:.0f} s",
    ]


def _history_table(histories: Mapping[str, HistoryOutcome]) -> str:
    rows = []
    for stream, history in histories.items():
        joined, replayed = float(np.mean(history.joined)), float(np.mean(history.replayed))
        rows.append([stream, f"{history.num_examples:,}", f"{joined:.4f}", f"{replayed:.4f}", f"{joined - replayed:+.4f}"])
    return _markdown(["stream", "examples", "joined", "replayed", "difference"], rows)


def _recipe_table(results: Mapping[str, Outcomes]) -> str:
    rows = []
    for recipe in RECIPES:
        cells = [recipe.label]
        for outcomes in results.values():
            tried = [outcome for outcome in outcomes if (recipe.name, "live") in outcome.arms]
            if not tried:
                return ""
            gap = difference(tried, arm(recipe.name), arm(DEFAULT.name))
            cells.append(f"{gap.mean:+.4f} ± {_number(gap.over_seeds)} ({mean_of(tried, arm(recipe.name), 'calibration'):.2f})")
        rows.append(cells)
    return _markdown(["recipe", *results], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float, digits: int = 4) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _draw(stream: str, outcomes: Outcomes, path: Path) -> None:
    """Draw the AUC of consecutive parts of the scored requests by arm, and less that of frozen."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    across = (np.arange(NUM_PARTS) + 0.5) / NUM_PARTS
    picks = {name: arm(DEFAULT.name, name) for name in _ARMS}
    picks |= {"popularity": control("popularity"), "Vowpal Wabbit": control(best_vowpal(outcomes))}
    frozen = _curve(outcomes, arm(DEFAULT.name, "frozen"))
    for name, pick in picks.items():
        style = "-" if name in _ARMS else ":"
        above.plot(across, _curve(outcomes, pick), style, label=name)
        below.plot(across, _curve(outcomes, pick) - frozen, style)
    above.set(title=f"{stream}: scores made at request time", ylabel="AUC of a part")
    below.set(xlabel="share of the scored candidates, in order of time", ylabel="less frozen")
    above.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _curve(outcomes: Outcomes, pick: Pick) -> np.ndarray:
    return np.mean([pick(outcome).curve for outcome in outcomes], axis=0)
