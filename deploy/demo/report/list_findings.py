"""Findings of the list-wise demo: its measurements, and the figures and checks of the report.

Letters: n live requests, C candidates of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from monolith_demo.report.ledger import Ledger
from monolith_demo.report.measures import Headline, Quality, quality, request_auc, weighted_percentile

# Models, by their names in the report: replicas, then baselines, then the truth.
LIVE, HOURLY, DAILY, FROZEN = "live", "hourly", "daily", "frozen"
LINEAR, ITEM_RATE, ORACLE = "linear", "item rate", "oracle"
REPLICAS = (LIVE, HOURLY, DAILY, FROZEN)
LEAST_GAIN, CALIBRATIONS = 0.02, (0.9, 1.1)


@dataclass(frozen=True)
class ListQuality:
    """Quality of the predictions of C candidates."""

    overall: Quality  # over all candidates
    request_auc: float  # mean within a request


@dataclass
class ListFindings:
    """Measurements of a run. `predictions[model]` is float64 (C,)."""

    hours: npt.NDArray[np.int64]  # (C,) since the start of the live phase
    requests: npt.NDArray[np.int64]  # (C,) from 0, sorted
    labels: npt.NDArray[np.bool_]  # (C,)
    predictions: Mapping[str, npt.NDArray[np.float64]]
    freshness_s: npt.NDArray[np.float64]  # age of each training step when its rows became servable, (steps,)
    freshness_rows: npt.NDArray[np.float64]  # (steps,)
    rank_s: npt.NDArray[np.float64]  # (n,) latency of the live replica, measured by the client
    num_versions: Mapping[str, int]  # different model versions in the answers, by replica
    ledger: Ledger
    trained: int  # examples and retractions, by the last checkpoint
    num_requests: int  # of history and live
    num_candidates: int  # of history and live
    num_clicks: int  # of history and live
    history_examples_per_s: float
    live_s: float
    took_s: dict[str, float] = field(default_factory=dict)  # by phase

    @cached_property
    def qualities(self) -> dict[str, ListQuality]:
        """Return the quality of each model over the live phase."""
        return {
            model: ListQuality(quality(self.labels, values), request_auc(self.requests, self.labels, values))
            for model, values in self.predictions.items()
        }

    def aucs_by_part(self, hours: int) -> dict[str, list[float]]:
        """Return the AUC of each model in each part of the live phase, of `hours` hours."""
        parts = [self.hours // hours == part for part in range(int(self.hours[-1]) // hours + 1)]
        return {model: [quality(self.labels[of], values[of]).auc for of in parts] for model, values in self.predictions.items()}

    def auc(self, model: str) -> float:
        """Return the AUC of a model over all candidates."""
        return self.qualities[model].overall.auc

    def gain(self, over: str) -> float:
        """Return the AUC of the live replica minus that of another model."""
        return self.auc(LIVE) - self.auc(over)

    def freshness(self, percent: float) -> float:
        """Return the percentile of freshness over updated rows, in seconds."""
        return weighted_percentile(self.freshness_s, self.freshness_rows, percent)

    def rank_ms(self, percent: float) -> float:
        """Return the percentile of Rank latency, in milliseconds."""
        return float(np.percentile(self.rank_s, percent) * 1000)

    def headline(self) -> Headline:
        """Return the gain of the live replica over hourly, daily and no refresh."""
        gains = {model: f"{self.gain(model):+.4f}" for model in (HOURLY, DAILY, FROZEN)}
        return Headline(
            f"Online learning was worth {gains[FROZEN]} AUC of clicks on news-like lists",
            [
                ("AUC of the live replica", f"{self.auc(LIVE):.4f}"),
                *((f"gain over the {model} replica", gain) for model, gain in gains.items()),
                ("calibration of the live replica", f"{self.qualities[LIVE].overall.calibration:.3f}"),
                ("freshness, p99: an updated row is served", f"{self.freshness(99):.2f} s"),
            ],
        )

    def broken_promises(self) -> list[str]:
        """Return the checks that failed: records counted exactly once, gain and calibration of the live replica."""
        ledger, known = self.ledger, self.ledger.examples + self.ledger.retractions
        calibration, (low, high) = self.qualities[LIVE].overall.calibration, CALIBRATIONS
        checks = {
            f"impressions logged must be {self.num_requests}, one for each request, got {ledger.impressions}": ledger.impressions
            == self.num_requests,
            f"actions logged must be {self.num_clicks}, one for each click, got {ledger.actions}": ledger.actions == self.num_clicks,
            f"examples joined must be {self.num_candidates}, one for each candidate, got {ledger.examples}": ledger.examples
            == self.num_candidates,
            f"examples must be distinct, got {ledger.distinct} of {known}": ledger.distinct == known,
            f"examples trained must be all {known} joined, got {self.trained}": self.trained == known,
            f"dead letters must be 0, got {ledger.dead_letters}": ledger.dead_letters == 0,
            f"AUC of live - frozen must be >= {LEAST_GAIN}, got {self.gain(FROZEN):.4f}": self.gain(FROZEN) >= LEAST_GAIN,
            f"calibration of live must be in {low} to {high}, got {calibration:.3f}": low <= calibration <= high,
        }
        return [text for text, holds in checks.items() if not holds]

    def figures(self) -> list[tuple[str, float, str]]:
        """Return the figures of the run as (name, value, unit)."""
        of_model = []
        for model, of in self.qualities.items():
            name = model.replace(" ", "_")
            of_model += [
                (f"demo_list.auc_{name}", of.overall.auc, "auc"),
                (f"demo_list.request_auc_{name}", of.request_auc, "auc"),
                (f"demo_list.ne_{name}", of.overall.ne, "ne"),
                (f"demo_list.calibration_{name}", of.overall.calibration, "ratio"),
            ]
        return [
            *((f"demo_list.auc_gain_live_vs_{model}", self.gain(model), "auc") for model in (HOURLY, DAILY, FROZEN)),
            *of_model,
            ("demo_list.freshness_p50_s", self.freshness(50), "s"),
            ("demo_list.freshness_p99_s", self.freshness(99), "s"),
            ("demo_list.examples_per_s", self.history_examples_per_s, "examples/s"),
            ("demo_list.live_examples_per_s", len(self.labels) / self.live_s, "examples/s"),
            ("demo_list.rank_p50_ms", self.rank_ms(50), "ms"),
            ("demo_list.rank_p99_ms", self.rank_ms(99), "ms"),
        ]
