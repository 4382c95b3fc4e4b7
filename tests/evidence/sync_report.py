"""SYNC.md: tables of the policies, and paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from intervals import half_width
from sync_passes import HISTORY_BATCH, SCORED_BATCH, Figures, LossOutcome, SyncOutcome
from sync_policies import AFTER_S, BATCH, COUNTERS, DAILY_DENSE, FROZEN, INTERVALS_S, LIVE, LOST_S, NEVER, STALE, Policy
from sync_stream import SyncStream

Getter = Callable[[Figures], float]
MEASURES: tuple[Getter, ...] = (lambda figures: figures.auc, lambda figures: figures.ne)
# Questions that decide, of the model of ids: one policy, less another.
PAIRS = (
    ("24 h, less never", Policy("24 h", "24 h"), FROZEN),
    ("5 h, less 24 h", Policy("5 h", "5 h"), Policy("24 h", "24 h")),
    ("1 h, less 5 h", Policy("1 h", "1 h"), Policy("5 h", "5 h")),
    ("10 min, less 1 h", Policy("10 min", "10 min"), Policy("1 h", "1 h")),
    ("1 min, less 10 min", Policy("1 min", "1 min"), Policy("10 min", "10 min")),
    ("every batch, less 1 min", LIVE, Policy("1 min", "1 min")),
    ("rows 1 min and dense 24 h, less both 1 min", Policy("1 min", "24 h"), Policy("1 min", "1 min")),
    ("rows 1 min and dense 24 h, less both 24 h", Policy("1 min", "24 h"), Policy("24 h", "24 h")),
    ("rows 1 min and dense never, less rows 1 min and dense 24 h", Policy("1 min", NEVER), Policy("1 min", "24 h")),
    ("dense 1 min and rows never, less both never", Policy(NEVER, "1 min"), FROZEN),
)
# The same of the model of ids and counters.
COUNTER_PAIRS = (
    ("fresh counters alone: live, less frozen, weights frozen", FROZEN, STALE),
    ("fresh weights alone: every batch, less frozen, counters frozen", Policy(BATCH, BATCH, has_live_counters=False), STALE),
    ("fresh weights beside fresh counters: every batch, less frozen", LIVE, FROZEN),
    ("24 h, less never, counters live", Policy("24 h", "24 h"), FROZEN),
    ("1 min, less 24 h, counters live", Policy("1 min", "1 min"), Policy("24 h", "24 h")),
)


@dataclass(frozen=True)
class Results:
    """Outcomes in the order of the seeds."""

    ids: Sequence[SyncOutcome]
    counters: Sequence[SyncOutcome]
    losses: Sequence[LossOutcome]


def write_report(folder: Path, results: Results, stream: SyncStream, about: str) -> None:
    """Write SYNC.md to `folder`."""
    scored_s = stream.times_s[stream.scored_from :]
    per_min = len(scored_s) / max((scored_s[-1] - scored_s[0]) / 60, 1)
    method = (
        f"The shipped KuaiRand-Pure, label long_view. DeepFM of user, video, author and tab with default settings and a tower of 64-32 "
        f"learns {stream.scored_from:,} impressions of history in batches of {HISTORY_BATCH}, then goes on in batches of {SCORED_BATCH}. "
        f"Each of the last {len(scored_s):,} impressions ({per_min:.1f} a minute) is scored in order of time before it is learnt, by one "
        f"replica for each line of the tables below. A replica has its rows by the tables' own deltas (`EmbeddingTable.drain_encoded`, "
        f"fp16) and a copy of the dense parameters, each as old as the interval says. All replicas of a table follow one training run. "
        f"Differences are paired by seed, ± is the 95 % interval over seeds (Student's t); n.s.: it contains 0. A seed is that of rows and "
        f"model; the impressions are the same. Intervals are event time; a batch takes {60 * SCORED_BATCH / per_min:.0f} s on average."
    )
    parts = [
        "# Evidence: how often replicas must follow the trainer",
        f"{about} Written by the run: edit the code, not this file.",
        method,
        "## 1. Interval of synchronization, features: ids",
        "Gain over weights that never change after the history.",
        interval_table(results.ids),
        "## 2. Rows often, dense parameters seldom",
        "Monolith synchronizes rows by the minute and dense parameters by the day.",
        policies_table(results.ids, [*DAILY_DENSE, Policy(NEVER, "1 min")], FROZEN),
        "## 3. Differences that decide",
        pairs_table(results.ids, PAIRS),
        "## 4. Fresh features alone",
        "With counters of user, video, author and tab as dense features: live, or frozen at the end of the history.",
        policies_table(results.counters, [one for one in COUNTERS if one != STALE], STALE),
        pairs_table(results.counters, COUNTER_PAIRS),
        "## 5. A snapshot that is lost",
        "Training since the last snapshot is lost and never learnt again; the model goes on with every batch. Monolith accepts that for a "
        "part of the tables (section 2.3 of the paper, without a figure). A trainer of ours goes on from its checkpoint and learns the "
        "same examples from the log: its difference is 0 by construction (`tests/flow/test_trainer_killed.py`). Figures, less those of a "
        "run without a loss:",
        loss_table(results.losses),
        "## 6. What is not significant",
        not_significant(results),
        "The intervals are over seeds alone. Other users would give others: differences below 0.001 hold for these impressions.",
    ]
    (folder / "SYNC.md").write_text("\n\n".join(parts) + "\n")


def interval_table(outcomes: Sequence[SyncOutcome]) -> str:
    """Return the table of the intervals: all parameters, and rows alone."""
    heads = ["interval", "all: AUC", "less never", "NE", "less never", "rows alone: AUC, less never", "NE, less never"]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " --- |" * 6]
    for interval in INTERVALS_S:
        both, alone = Policy(interval, interval), Policy(interval, NEVER)
        cells = [text for get in MEASURES for text in (f"{_mean(outcomes, both, get):.4f}", _less(outcomes, both, FROZEN, get))]
        cells += [_less(outcomes, alone, FROZEN, get) for get in MEASURES]
        lines.append(f"| {_label(interval)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def policies_table(outcomes: Sequence[SyncOutcome], policies: Sequence[Policy], other: Policy) -> str:
    """Return the table of `policies`, each less `other`, which is the first row."""
    lines = ["| rows | dense parameters | counters | AUC | less the first | NE | less the first |", "| --- |" + " --- |" * 6]
    for policy in [other, *policies]:
        cells = [_label(policy.sparse), _label(policy.dense), "live" if policy.has_live_counters else "frozen"]
        for get in MEASURES:
            cells += [f"{_mean(outcomes, policy, get):.4f}", _less(outcomes, policy, other, get)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def pairs_table(outcomes: Sequence[SyncOutcome], pairs: Sequence[tuple[str, Policy, Policy]]) -> str:
    """Return the table of the paired differences."""
    lines = ["| question | AUC | NE |", "| --- | --- | --- |"]
    for question, policy, other in pairs:
        lines.append(f"| {question} | {' | '.join(_less(outcomes, policy, other, get) for get in MEASURES)} |")
    return "\n".join(lines)


def loss_table(outcomes: Sequence[LossOutcome]) -> str:
    """Return the table of the lost hours."""
    heads = [f"{part}: {measure}" for part in AFTER_S for measure in ("AUC", "NE")]
    lines = [f"| lost | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name in LOST_S:
        cells = [text(_losses(outcomes, name, part, get)) for part in AFTER_S for get in MEASURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def not_significant(results: Results) -> str:
    """Return the list of the differences in AUC whose interval has 0."""
    found = [question for question, one, two in PAIRS if not _is_sure(_differences(results.ids, one, two, MEASURES[0]))]
    found += [question for question, one, two in COUNTER_PAIRS if not _is_sure(_differences(results.counters, one, two, MEASURES[0]))]
    for name in LOST_S:
        found += [f"{name} lost, {part}" for part in AFTER_S if not _is_sure(_losses(results.losses, name, part, MEASURES[0]))]
    return "\n".join(f"- {question}" for question in found) or "Every difference in AUC above is."


def text(differences: Sequence[float]) -> str:
    """Return the mean of differences with its interval.

    >>> text([0.01, 0.011, 0.012]), text([0.01, -0.01])
    ('+0.0110 ± 0.0025', '+0.0000 ± 0.1271 n.s.')
    """
    if len(differences) == 1:
        return f"{differences[0]:+.4f}, one seed"
    return f"{np.mean(differences):+.4f} ± {half_width(differences):.4f}" + ("" if _is_sure(differences) else " n.s.")


def _is_sure(differences: Sequence[float]) -> bool:
    return bool(abs(np.mean(differences)) > half_width(differences))


def _differences(outcomes: Sequence[SyncOutcome], policy: Policy, other: Policy, get: Getter) -> list[float]:
    return [get(one.figures[policy.name]) - get(one.figures[other.name]) for one in outcomes]


def _losses(outcomes: Sequence[LossOutcome], name: str, part: str, get: Getter) -> list[float]:
    return [get(one.lost[name, part]) - get(one.kept[part]) for one in outcomes]


def _less(outcomes: Sequence[SyncOutcome], policy: Policy, other: Policy, get: Getter) -> str:
    return "-" if policy == other else text(_differences(outcomes, policy, other, get))


def _mean(outcomes: Sequence[SyncOutcome], policy: Policy, get: Getter) -> float:
    return float(np.mean([get(one.figures[policy.name]) for one in outcomes]))


def _label(interval: str) -> str:
    return "every batch" if interval == BATCH else interval
