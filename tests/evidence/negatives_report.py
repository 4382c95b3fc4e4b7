"""NEGATIVES.md: tables of the policies, and paired differences that decide what the product has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from intervals import half_width
from negatives_passes import Figures, PolicyOutcome
from negatives_policies import POLICIES, Impressions

Outcomes = Mapping[str, Sequence[PolicyOutcome]]  # by policy, in the order of the seeds


@dataclass(frozen=True)
class Pair:
    """A policy, less another one."""

    question: str
    policy: str
    other: str


PAIRS = (
    *(
        Pair(f"{task}, rate {rate}: {question}", f"{task} {rate} {by_tab} {correction}", f"{task} {rate} {other}")
        for task, rates in (("long_view", (0.5, 0.1)), ("like", (0.1, 0.01)))
        for rate in rates
        for question, by_tab, correction, other in (
            ("log-odds, less weights", "one", "log_odds", "one weights"),
            ("by the odds of the tab, less one rate", "odds", "weights", "one weights"),
            ("small tabs kept more, less one rate", "small", "weights", "one weights"),
        )
        if rate > 0.01 or by_tab == "one"
    ),
    Pair("30 s, rate 0.1: log-odds, less weights", "late log_odds", "late weights"),
    Pair("negative at once: FNW, less retraction", "fake fnw", "fake retract"),
    Pair("negative at once: FNC, less retraction", "fake fnc", "fake retract"),
    Pair("negative at once, FNC, less a window of 10 min", "fake fnc", "long_view all"),
    Pair("positives wait for 10 min, too, less at once", "held 600", "long_view all"),
    Pair("positives wait for 1 h, too, less at once", "held 3600", "window 3600"),
    Pair("is_click: a window for each task, less 10 min", "two windows", "two all"),
)

_READING = """\
- **Log-odds** is calibrated as the weights are. Replicas need to know nothing of either: the shift is in the loss, the served logit has
  none.
- **FNW and FNC** learn from the same examples as a negative at once that its positive retracts.
- **First positive only** teaches that a click was no long view. It is `joiner.terminal_actions` with the kinds of all tasks and
  `joiner.late = "drop"`.
- **The joiner's rule** is: a positive at once, a negative when its window closes. Until then a session has taught the rows of its user
  positives alone, so a long window costs more than its delay.
"""


def write_report(folder: Path, outcomes: Outcomes, impressions: Impressions, about: str) -> None:
    """Write NEGATIVES.md to `folder`."""
    scored = len(impressions) - impressions.scored_from
    days = (impressions.times_ms[-1] - impressions.times_ms[0]) / 86_400_000
    shares = {task: float(impressions.labels(task).mean()) for task in impressions.acted_ms}
    small = float(impressions.on_small_tabs.mean())
    method = (
        f"The first {len(impressions):,} impressions of the shipped KuaiRand-Pure ({days:.1f} days); DeepFM of user, video, author and tab "
        f"with default settings and a tower of 64-32. Every impression is scored in slices of 3 minutes and learnt as its policy emits "
        f"it. Figures are of the last {scored:,} with their final labels, sampled or not. long_view ({shares['long_view']:.1%}) and like "
        f"({shares['is_like']:.1%}) come at the end of the play, is_click ({shares['is_click']:.1%}) 1 s after the impression. Where "
        f"nothing else is said the window is 10 min and late positives retract. ± is the 95 % interval over seeds (Student's t), paired by "
        f"seed; a seed is that of the job and of the draw of negatives. Small tabs are all but the largest, {small:.0%} of the impressions."
    )
    parts = [
        "# Evidence: negatives and delay",
        f"{about} Written by the run: edit the code, not this file.",
        method,
        "## 1. Differences that decide",
        pairs_table(outcomes),
        _READING.rstrip(),
        "## 2. Sampling, long_view",
        policies_table(outcomes, "long_view", "long_view all", "long_view", "all negatives"),
        "## 3. Sampling, like",
        policies_table(outcomes, "like", "like all", "is_like", "all negatives"),
        "## 4. Delay, long_view",
        "FNW and FNC: Ktena et al. 2019 (arXiv 1907.06558). The first row is that of section 2.",
        policies_table(outcomes, "delay", "long_view all", "long_view", "10 min"),
        "## 5. Two tasks",
        *(f"{task}:\n\n{policies_table(outcomes, 'two', 'two all', task, '10 min')}" for task in ("is_click", "long_view")),
    ]
    (folder / "NEGATIVES.md").write_text("\n\n".join(parts) + "\n")


def policies_table(outcomes: Outcomes, group: str, first: str, task: str, first_label: str) -> str:
    """Return the table of the policies of a group, each with its difference to the policy `first`."""
    policies = [policy for policy in POLICIES if policy.group == group or policy.name == first]
    lines = ["| policy | examples | AUC | less the first | small tabs | NE | less the first | calibration |", "| --- |" + " --- |" * 7]
    for policy in sorted(policies, key=lambda one: one.name != first):
        label = first_label if policy.name == first else policy.label
        lines.append(f"| {label} | {' | '.join(_cells(outcomes, policy.name, first, task))} |")
    return "\n".join(lines)


def pairs_table(outcomes: Outcomes) -> str:
    """Return the table of the paired differences."""
    lines = ["| question | AUC | small tabs | NE |", "| --- | --- | --- | --- |"]
    for pair in PAIRS:
        task = next(policy.tasks[0] for policy in POLICIES if policy.name == pair.policy)
        cells = [
            difference(outcomes, pair.policy, pair.other, task, get) for get in (lambda f: f.auc, lambda f: f.auc_small, lambda f: f.ne)
        ]
        lines.append(f"| {pair.question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(outcomes: Outcomes, policy: str, other: str, task: str, get: Callable[[Figures], float]) -> str:
    """Return the mean difference of a figure over seeds, with its interval."""
    pairs = zip(outcomes[policy], outcomes[other], strict=True)
    differences = [get(one.figures[task]) - get(another.figures[task]) for one, another in pairs]
    return f"{np.mean(differences):+.4f} ± {half_width(differences):.4f}"


def _cells(outcomes: Outcomes, policy: str, first: str, task: str) -> list[str]:
    def mean(get: Callable[[Figures], float]) -> float:
        return float(np.mean([get(one.figures[task]) for one in outcomes[policy]]))

    def less_first(get: Callable[[Figures], float]) -> str:
        return "-" if policy == first else difference(outcomes, policy, first, task, get)

    return [
        f"{np.mean([one.num_examples for one in outcomes[policy]]):,.0f}",
        f"{mean(lambda f: f.auc):.4f}",
        less_first(lambda f: f.auc),
        f"{mean(lambda f: f.auc_small):.4f}",
        f"{mean(lambda f: f.ne):.4f}",
        less_first(lambda f: f.ne),
        f"{mean(lambda f: f.calibration):.3f}",
    ]
