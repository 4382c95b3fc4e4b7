"""Share of the negatives kept by the value of a feature. The core has the same rule (monolith_py/core/joiner/negative_rates.hpp)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from monolith_py.config import JoinerConfig
from monolith_py.data.ids import fid_from_text


class Bags(Protocol):
    """Sparse features of the candidates of one impression."""

    def bag(self, feature: str, row: int) -> Sequence[int]:
        """Return the fids of a feature of candidate `row`, none without the feature."""
        ...


@dataclass(frozen=True)
class NegativeRates:
    """Rates by (feature, fid) in their order, and the rate of all other candidates."""

    default: float
    by_value: tuple[tuple[str, int, float], ...] = ()

    @staticmethod
    def of(joiner: JoinerConfig) -> NegativeRates:
        """Return the rates of the settings, with texts hashed."""
        by_value = (
            (one.feature, one.value if isinstance(one.value, int) else fid_from_text(one.value), one.rate) for one in joiner.negative_rates
        )
        return NegativeRates(joiner.negative_rate, tuple(by_value))

    def rate(self, bags: Bags | None, row: int) -> float:
        """Return the share of the negatives kept of candidates like `row`: of the first rate whose fid is in its bag.

        `bags` is only needed for rates by value.
        """
        if not self.by_value:
            return self.default
        assert bags is not None, "a candidate whose example is due has features"
        found: dict[str, Sequence[int]] = {}
        for feature, fid, rate in self.by_value:
            if feature not in found:
                found[feature] = bags.bag(feature, row)
            if fid in found[feature]:
                return rate
        return self.default
