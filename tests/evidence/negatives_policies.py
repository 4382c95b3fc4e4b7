"""Policies for negatives and delay: the examples that a joiner emits under each, as arrays.

Letters: n impressions in order of time, T tasks, E emitted examples in the order in which they are learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as parquet

from monolith_demo.dataset import kuairand
from monolith_py.data.columns import FloatArray, Int64Array

BoolArray = npt.NDArray[np.bool_]
# A click starts the play; its time is not in the data.
CLICK_MS = 1000
NEVER_MS = 1 << 62
# Impressions before this share of the stream are learnt, not scored.
WARM_SHARE = 0.4


ByTab = Literal["one", "odds", "small"]
Correction = Literal["weights", "log_odds", "fnw", "fnc", "none"]


@dataclass(frozen=True)
class Policy:
    """One way to sample negatives and to treat late positives; the defaults are those of the joiner, without terminal actions."""

    name: str
    label: str
    group: str
    tasks: tuple[str, ...] = ("long_view",)
    windows_s: tuple[float, ...] = (600.0,)  # of all tasks; or of each, which is then learnt by itself when its window closes
    # Late positive: retraction of the negative; nothing; or a second example, whole.
    late: Literal["retract", "drop", "again"] = "retract"
    # The labels of a candidate are known after all positives, after the first one, or when the window closes.
    known: Literal["all", "first", "window"] = "all"
    rate: float = 1.0  # share of negatives kept in all
    # One rate; in proportion to the odds of a positive on the tab; or three times that of the largest tab on all others.
    by_tab: ByTab = "one"
    correction: Correction = "weights"


@dataclass(frozen=True)
class Impressions:
    """The n impressions and the positives on them."""

    fids: Int64Array  # (4, n) of FEATURES
    times_ms: Int64Array  # (n,)
    acted_ms: dict[str, Int64Array]  # task -> (n,) time of the positive, NEVER_MS without one
    scored_from: int

    def __len__(self) -> int:
        return len(self.times_ms)

    @property
    def on_small_tabs(self) -> BoolArray:
        """Return whether each impression is on another tab than the largest, bool (n,)."""
        values, counts = np.unique(self.fids[TAB], return_counts=True)
        small: BoolArray = self.fids[TAB] != values[counts.argmax()]
        return small

    def labels(self, task: str) -> FloatArray:
        """Return the final labels of a task, float32 (n,)."""
        return (self.acted_ms[task] < NEVER_MS).astype(np.float32)


@dataclass(frozen=True)
class Emitted:
    """E examples."""

    known_ms: Int64Array  # (E,)
    rows: Int64Array  # (E,) impression
    labels: BoolArray  # (E, T)
    retracts: BoolArray  # (E,)
    rates: FloatArray  # (E,) share of the negatives kept where the impression lies
    tasks: BoolArray  # (E, T) the tasks that the example teaches


FEATURES = ("user_id", "video_id", "author_id", "tab")
TAB = FEATURES.index("tab")


def load_impressions(num: int) -> Impressions:
    """Load the first `num` impressions of the shipped KuaiRand, with ids as features and long_view, click and like as tasks."""
    table = parquet.read_table(kuairand.DATA / "kuairand_pure_0425_0508.parquet")
    columns = {name: table.column(name).to_numpy().astype(np.int64) for name in table.column_names}
    order = np.argsort(columns["time_ms"], kind="stable")[:num]
    columns = {name: values[order] for name, values in columns.items()}
    end_ms = columns["time_ms"] + columns["play_time_ms"]
    times = {"long_view": end_ms, "is_like": end_ms, "is_click": np.minimum(end_ms, columns["time_ms"] + CLICK_MS)}
    acted = {task: np.where(columns[task] > 0, when, NEVER_MS) for task, when in times.items()}
    return Impressions(np.stack([columns[name] for name in FEATURES]), columns["time_ms"], acted, int(WARM_SHARE * len(order)))


def rates_of(impressions: Impressions, policy: Policy) -> FloatArray:
    """Return the share of the negatives that is kept where each impression lies, float32 (n,).

    The odds of a tab are those of the impressions before the scored ones. Rates in proportion to them are the optimal allocation of Wang et
    al. 2021, section 4 (arXiv 2110.13048), where a positive is rare, with the tab as the pilot model; none is below a tenth of the mean.
    """
    if policy.by_tab == "one":
        return np.full(len(impressions), policy.rate, np.float32)
    tabs = np.unique(impressions.fids[TAB], return_inverse=True)[1]
    positive = np.any([impressions.labels(task) > 0 for task in policy.tasks], axis=0)
    weights, least = np.full(tabs.max() + 1, 3.0), 0.0
    weights[np.bincount(tabs).argmax()] = 1.0
    if policy.by_tab == "odds":
        known = impressions.scored_from
        shown, hits = (np.bincount(tabs[:known], values, len(weights)) for values in (None, positive[:known]))
        share = (hits + 1.0) / (shown + 10.0)
        weights, least = share / (1 - share), policy.rate / 10
    negatives = np.bincount(tabs, ~positive)
    low, high = 0.0, 1e3  # scale of the weights at which as many negatives are kept as at one rate for all
    for _ in range(50):
        scale = (low + high) / 2
        kept = float(negatives @ np.clip(scale * weights, least, 1.0))
        low, high = (scale, high) if kept < policy.rate * negatives.sum() else (low, scale)
    by_tab: FloatArray = np.clip(low * weights, least, 1.0).astype(np.float32)[tabs]
    return by_tab


def emitted(impressions: Impressions, policy: Policy, seed: int) -> Emitted:
    """Return the examples of all impressions; `seed` draws the negatives that are kept."""
    if len(policy.windows_s) == len(policy.tasks) > 1:
        parts = [_emitted(impressions, policy, seed, [place], window) for place, window in enumerate(policy.windows_s)]
    else:
        parts = [_emitted(impressions, policy, seed, list(range(len(policy.tasks))), policy.windows_s[0])]
    order = np.argsort(np.concatenate([part.known_ms for part in parts]), kind="stable")
    return Emitted(*(np.concatenate([getattr(part, name) for part in parts])[order] for name in Emitted.__dataclass_fields__))


def _emitted(impressions: Impressions, policy: Policy, seed: int, places: list[int], window_s: float) -> Emitted:
    """Return the examples that teach the tasks at `places`, by the rules of the joiner (streaming/joiner/rules.py)."""
    count = len(impressions)
    acted = np.stack([impressions.acted_ms[policy.tasks[place]] for place in places], axis=1)  # (n, places)
    deadline = impressions.times_ms + round(1000 * window_s)
    everything = {"all": acted.max(axis=1), "first": acted.min(axis=1), "window": deadline}[policy.known]
    first_ms = np.where(everything < deadline, everything, deadline)
    # At the deadline itself an action is late; one that makes the labels known is part of them.
    labels = (acted < deadline[:, None]) & (acted <= first_ms[:, None])
    rates = rates_of(impressions, policy)
    kept = labels.any(axis=1) | (np.random.default_rng(seed).random(count) < rates)
    rows = np.flatnonzero(kept)
    parts = [(first_ms[rows], rows, labels[rows], np.zeros(len(rows), np.bool_))]
    if policy.late != "drop":
        for place in range(len(places)):
            late = np.flatnonzero((acted[:, place] < NEVER_MS) & ~labels[:, place])
            positive = np.zeros((len(late), len(places)), np.bool_)
            positive[:, place] = True
            retracts = kept[late] if policy.late == "retract" else np.zeros(len(late), np.bool_)
            parts.append((acted[late, place], late, positive, retracts))
    known_ms, rows, labels, retracts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    wide = np.zeros((len(rows), len(policy.tasks)), np.bool_)
    tasks = wide.copy()
    wide[:, places], tasks[:, places] = labels, True
    return Emitted(known_ms, rows, wide, retracts, rates[rows], tasks)


def _sampling(task: str, name: str, rates: tuple[float, ...]) -> tuple[Policy, ...]:
    """Return the policies of a task that keep the given shares of the negatives."""
    found = [Policy(f"{name} all", "all negatives", name, (task,))]
    for rate in rates:
        for by_tab, correction, label in SAMPLERS:
            found.append(
                Policy(
                    f"{name} {rate} {by_tab} {correction}",
                    f"rate {rate}, {label}",
                    name,
                    (task,),
                    rate=rate,
                    by_tab=by_tab,
                    correction=correction,
                )
            )
    return tuple(found)


SAMPLERS: tuple[tuple[ByTab, Correction, str], ...] = (
    ("one", "weights", "weights 1 / rate"),
    ("one", "log_odds", "log-odds"),
    ("odds", "weights", "by the odds of the tab, weights 1 / rate"),
    ("small", "weights", "small tabs three times the rate of the largest, weights 1 / rate"),
)
_BOTH = ("is_click", "long_view")
SAMPLING = _sampling("long_view", "long_view", (0.5, 0.1))
# Rates by tab of so few negatives: nothing to tell.
RARE = tuple(one for one in _sampling("is_like", "like", (0.1, 0.01)) if one.rate > 0.01 or one.by_tab == "one")
LATE = (
    Policy("late weights", "30 s, rate 0.1, weights 1 / rate", "delay", windows_s=(30.0,), rate=0.1),
    Policy("late log_odds", "30 s, rate 0.1, log-odds", "delay", windows_s=(30.0,), rate=0.1, correction="log_odds"),
)
WINDOWS = (
    Policy("window 30", "30 s", "delay", windows_s=(30.0,)),
    Policy("window 300", "5 min", "delay", windows_s=(300.0,)),
    Policy("window 3600", "1 h", "delay", windows_s=(3600.0,)),
    Policy("held 600", "10 min, positives wait for it, too", "delay", known="window"),
    Policy("held 3600", "1 h, positives wait for it, too", "delay", windows_s=(3600.0,), known="window"),
    Policy("dropped 30", "30 s, late positives dropped", "delay", windows_s=(30.0,), late="drop"),
)
FAKE = (
    Policy("fake retract", "negative at once, the positive retracts it", "delay", windows_s=(0.0,)),
    Policy("fake fnw", "negative at once, FNW", "delay", windows_s=(0.0,), late="again", correction="fnw"),
    Policy("fake fnc", "negative at once, FNC", "delay", windows_s=(0.0,), late="again", correction="fnc"),
    Policy("fake again", "negative at once, the positive again, no correction", "delay", windows_s=(0.0,), late="again", correction="none"),
)
TWO = (
    Policy("two all", "10 min", "two", _BOTH),
    Policy("two first", "first positive only", "two", _BOTH, known="first", late="drop"),
    Policy("two early", "emitted at the first positive, the other one retracts", "two", _BOTH, known="first"),
    Policy("two short", "30 s", "two", _BOTH, windows_s=(30.0,)),
    Policy("two windows", "a window for each task: is_click 30 s, long_view 10 min", "two", _BOTH, windows_s=(30.0, 600.0)),
)
POLICIES = (*SAMPLING, *RARE, *WINDOWS, *LATE, *FAKE, *TWO)
