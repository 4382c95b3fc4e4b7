"""Differences, bars and figures of the evidence on online learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from intervals import half_width, half_width_of_resamples
from online_passes import HistoryOutcome, Scored, StreamOutcome

Outcomes = Sequence[StreamOutcome]  # of one stream, by seed
Pick = Callable[[StreamOutcome], Scored]

# Least gain of live over frozen; on the other streams the gain must not be below 0 beyond its interval.
_LEAST_GAIN = {"kuairand": 0.006, "generated": 0.02}
_SAME_BATCHES, _SAME_HISTORY, _OVER_VOWPAL = 0.003, 0.002, 0.003
_CALIBRATION = (0.9, 1.1)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences in AUC, with 95 % half-widths."""

    mean: float
    over_seeds: float
    over_groups: float  # requests or users resampled; NaN where they were not

    @property
    def interval(self) -> float:
        """Return the wider half-width."""
        return float(np.nanmax([self.over_seeds, self.over_groups, 0.0]))

    @property
    def text(self) -> str:
        """Return the difference with both half-widths."""
        return f"{self.mean:+.4f} ± {self.over_seeds:.4f}" + ("" if math.isnan(self.over_groups) else f" (± {self.over_groups:.4f})")


@dataclass(frozen=True)
class Bar:
    """One bar on one stream."""

    name: str
    stream: str
    value: float
    text: str
    rule: str
    is_met: bool
    unit: str = "AUC"
    is_open: bool = False  # missed, with the bar inside the interval: the data cannot tell

    @property
    def line(self) -> str:
        """Return the figure as the benches print theirs."""
        return f"figure online.{self.name}.{self.stream} {self.value:.4g} {self.unit}"


def arm(variant: str, name: str = "live") -> Pick:
    """Return what takes an arm of a variant from an outcome."""
    return lambda outcome: outcome.arms[variant, name]


def control(name: str) -> Pick:
    """Return what takes a control from an outcome."""
    return lambda outcome: outcome.controls[name]


def first(scored: Scored) -> str:
    """Return the first task."""
    return next(iter(scored.figures))


def mean_of(outcomes: Outcomes, pick: Pick, measure: str, task: str | None = None) -> float:
    """Return the mean of a measure over the seeds, of the first task by default."""
    scored = [pick(outcome) for outcome in outcomes]
    return float(np.mean([getattr(one.figures[task or first(one)], measure) for one in scored]))


def spread_of(outcomes: Outcomes, pick: Pick, measure: str) -> float:
    """Return the half-width of a measure of the first task over seeds."""
    scored = [pick(outcome) for outcome in outcomes]
    return half_width([getattr(one.figures[first(one)], measure) for one in scored])


def difference(outcomes: Outcomes, one: Pick, other: Pick, measure: str = "auc") -> Difference:
    """Return `one` minus `other`, the first task, paired by seed; resampled groups are those of the AUC."""
    pairs = [(one(outcome), other(outcome)) for outcome in outcomes]
    values = [getattr(a.figures[first(a)], measure) - getattr(b.figures[first(b)], measure) for a, b in pairs]
    over_groups = math.nan
    if measure == "auc" and all(a.resampled is not None and b.resampled is not None for a, b in pairs):
        over_groups = half_width_of_resamples(np.mean([a.resampled - b.resampled for a, b in pairs], axis=0))  # type: ignore[operator]
    return Difference(float(np.mean(values)), half_width(values), over_groups)


def best_vowpal(outcomes: Outcomes) -> str:
    """Return the control of Vowpal Wabbit with the best mean AUC."""
    names = [name for name in outcomes[0].controls if name.startswith("vowpal")]
    return max(names, key=lambda name: mean_of(outcomes, control(name), "auc"))


def bars(results: Mapping[str, Outcomes], histories: Mapping[str, HistoryOutcome]) -> list[Bar]:
    """Return all bars, by name and then by stream."""
    found = [bar for stream, outcomes in results.items() for bar in _stream_bars(stream, outcomes)]
    found += [_history_bar(stream, history) for stream, history in histories.items()]
    names = ["live_minus_frozen", "service_vs_even", "joined_vs_replayed", "calibration", "live_minus_vw"]
    return sorted(found, key=lambda bar: names.index(bar.name))


def _stream_bars(stream: str, outcomes: Outcomes) -> list[Bar]:
    live = arm("default")
    gain = difference(outcomes, live, arm("default", "frozen"))
    least = _LEAST_GAIN.get(stream)
    enough = gain.mean >= (-gain.interval if least is None else least)
    even = difference(outcomes, live, arm("even"))
    vowpal = difference(outcomes, live, control(best_vowpal(outcomes)))
    calibration, spread = mean_of(outcomes, live, "calibration"), spread_of(outcomes, live, "calibration")
    low, high = _CALIBRATION
    return [
        Bar(
            "live_minus_frozen", stream, gain.mean, gain.text, "not below 0 beyond its interval" if least is None else f">= {least}", enough
        ),
        Bar("service_vs_even", stream, even.mean, even.text, f"within {_SAME_BATCHES}", abs(even.mean) <= _SAME_BATCHES),
        Bar(
            "calibration", stream, calibration, f"{calibration:.3f} ± {spread:.3f}", f"{low} to {high}", low <= calibration <= high, "ratio"
        ),
        Bar(
            "live_minus_vw",
            stream,
            vowpal.mean,
            vowpal.text,
            f">= {_OVER_VOWPAL}",
            vowpal.mean >= _OVER_VOWPAL,
            is_open=vowpal.mean < _OVER_VOWPAL <= vowpal.mean + vowpal.interval,
        ),
    ]


def _history_bar(stream: str, history: HistoryOutcome) -> Bar:
    values = [one - other for one, other in zip(history.joined, history.replayed, strict=True)]
    gap = Difference(float(np.mean(values)), half_width(values), math.nan)
    return Bar("joined_vs_replayed", stream, gap.mean, gap.text, f"within {_SAME_HISTORY}", abs(gap.mean) <= _SAME_HISTORY)
