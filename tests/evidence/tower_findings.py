"""What passes of towers say together: means over seeds, and paired differences with their intervals.

Letters: S seeds that two variants have in common, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from intervals import FloatArray, half_width, half_width_of_resamples
from tower_passes import TowerOutcome
from tower_variants import AT, CLAIMS, DENSE, SMALL, WIDES, TowerVariant

Results = Mapping[str, Sequence[TowerOutcome]]

# The bars of 80 % and 90 %: how much AUC a sparse tower of BASE may be below the dense one.
_BARS = {0.2: 0.002, 0.1: 0.003}


class Scored(Protocol):
    """What a pass must give to be compared with others."""

    @property
    def seed(self) -> int: ...
    @property
    def aucs(self) -> tuple[float, ...]: ...  # of each span of the stream
    @property
    def resampled(self) -> FloatArray: ...  # (R,) AUC of the last span for each resample of the users


@dataclass(frozen=True)
class Difference:
    """AUC of one variant less that of another on the same seeds, in 1e-4, with half-widths of 95 % intervals."""

    mean: float
    over_seeds: float  # NaN for one seed
    over_users: float  # of the last span

    @property
    def text(self) -> str:
        """Return the difference and its interval over seeds."""
        return f"{self.mean:+.1f}" + ("" if math.isnan(self.over_seeds) else f" ± {self.over_seeds:.1f}")

    @property
    def high(self) -> float:
        """Return the upper end of the interval over seeds; the mean itself where it is unknown."""
        return 2 * self.mean - self.low

    @property
    def low(self) -> float:
        """Return the lower end of the interval over seeds; the mean itself where it is unknown."""
        return self.mean - (0.0 if math.isnan(self.over_seeds) else self.over_seeds)


@dataclass(frozen=True)
class Bar:
    """A figure and what it must reach, in AUC, by its 95 % interval over seeds.

    Rules: "within" asks the lower end to be at least `-by`, "above" the lower end to be above 0, "not below" the upper end to be at
    least 0, so that a tie passes.
    """

    name: str
    difference: Difference
    rule: Literal["within", "above", "not below"]
    by: float = 0.0

    @property
    def passes(self) -> bool:
        """Return whether the bar is met."""
        low, high = self.difference.low / 1e4, self.difference.high / 1e4
        return {"within": low >= -self.by, "above": low > 0, "not below": high >= 0}[self.rule]

    @property
    def line(self) -> str:
        """Return the figure as it is printed."""
        rule = f"within {self.by:g}" if self.rule == "within" else f"{self.rule} 0"
        verdict = "pass" if self.passes else "FAIL"
        interval = f"± {self.difference.over_seeds / 1e4:.6f} over seeds, ± {self.difference.over_users / 1e4:.6f} over users"
        return f"figure tower.quality.{self.name} {self.difference.mean / 1e4:+.6f} AUC ({interval}; bar: {rule}, {verdict})"


def difference(results: Results, variant: TowerVariant, reference: TowerVariant, span: int = 0) -> Difference:
    """Return how far `variant` is above `reference` in the AUC of a span."""
    return paired(results[variant.name], results[reference.name], span)


def paired(outcomes: Sequence[Scored], references: Sequence[Scored], span: int = 0) -> Difference:
    """Return how far the passes of one variant are above those of another, on the seeds that both have."""
    others = {outcome.seed: outcome for outcome in references}
    pairs = [(outcome, others[outcome.seed]) for outcome in outcomes if outcome.seed in others]
    assert pairs, "the two have no seed in common"
    ahead = [1e4 * (own.aucs[span] - other.aucs[span]) for own, other in pairs]
    resampled = np.mean([1e4 * (own.resampled.astype(np.float64) - other.resampled) for own, other in pairs], axis=0)
    return Difference(float(np.mean(ahead)), half_width(ahead), half_width_of_resamples(resampled))


def mean_of(results: Results, variant: TowerVariant, field: str) -> float:
    """Return the mean over seeds of a number that each pass gave."""
    return float(np.mean([getattr(outcome, field) for outcome in results[variant.name]]))


def mean_auc(results: Results, variant: TowerVariant, span: int = 0) -> float:
    """Return the mean AUC of a span over seeds."""
    return float(np.mean([outcome.aucs[span] for outcome in results[variant.name]]))


def small_for(results: Results, share: float) -> TowerVariant:
    """Return the best of the small dense towers with this share of the weights."""
    return max(SMALL[share], key=lambda variant: mean_auc(results, variant))


def as_fast(results: Results, variant: TowerVariant) -> TowerVariant:
    """Return the best dense tower of CLAIMS whose steady step takes no longer than the variant's, or the fastest where none does."""
    dense = [other for other in CLAIMS if not other.sparsity and other.name in results]
    fast = [other for other in dense if mean_of(results, other, "steady_ms") <= mean_of(results, variant, "steady_ms")]
    if not fast:
        return min(dense, key=lambda other: mean_of(results, other, "steady_ms"))
    return max(fast, key=lambda other: mean_auc(results, other))


def bars(results: Results) -> list[Bar]:
    """Return the figures of quality that have a bar."""
    found = []
    for share, variant in AT.items():
        percent = round(100 * (1 - share))
        found.append(Bar(f"{percent}_vs_dense", difference(results, variant, DENSE), "within", _BARS[share]))
    for share, variant in AT.items():
        percent = round(100 * (1 - share))
        found.append(Bar(f"{percent}_vs_small_dense", difference(results, variant, small_for(results, share)), "not below"))
    for share, (variant, *_) in WIDES.items():
        percent = round(100 * (1 - share))
        found.append(Bar(f"wide_{percent}_vs_small_dense", difference(results, variant, small_for(results, share)), "above"))
        found.append(Bar(f"wide_{percent}_vs_dense_as_fast", difference(results, variant, as_fast(results, variant)), "above"))
    return found
