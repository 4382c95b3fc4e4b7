"""Findings of a run: its measurements, and the figures and checks of the report. Letters: n live impressions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monolith_demo.report.arms import ArmFindings
from monolith_demo.report.ledger import Ledger
from monolith_demo.report.measures import Headline, Quality, quality, weighted_percentile
from monolith_demo.report.towers import DENSE, SPARSE, TowerPass
from monolith_py.table import TableStats

# Models, by their names in the report.
LIVE, FROZEN, LINEAR, VIDEO_RATE = "live", "frozen", "linear", "video rate"
MAIN_TASK = "long_view"


@dataclass
class Findings:
    """Measurements of a run. `predictions[task][model]` is float64 (n,), `labels[task]` bool (n,)."""

    days: npt.NDArray[np.int64]  # (n,)
    labels: dict[str, npt.NDArray[np.bool_]]
    predictions: dict[str, dict[str, npt.NDArray[np.float64]]]
    freshness_s: npt.NDArray[np.float64]  # age of each training step when its rows became servable, (steps,)
    freshness_rows: npt.NDArray[np.float64]  # (steps,)
    rank_s: npt.NDArray[np.float64]  # (n,) latency of the live replica, measured by the client
    history_examples_per_s: float
    live_examples_per_s: float
    live_s: float
    table_stats: dict[str, TableStats]
    ledger: Ledger
    trained: int  # examples and retractions, by the last checkpoint
    history_impressions: int
    num_versions: int  # different model versions in the answers
    towers: dict[str, TowerPass]  # SPARSE (the job's) and DENSE, on the same examples
    took_s: dict[str, float] = field(default_factory=dict)  # by phase
    arms: ArmFindings | None = None  # None: not compared

    def overall(self, task: str) -> dict[str, Quality]:
        """Return the quality over all days, by model."""
        return {model: quality(self.labels[task], values) for model, values in self.predictions[task].items()}

    def by_day(self, task: str) -> dict[int, dict[str, Quality]]:
        """Return the quality by day and model."""
        return {
            int(day): {
                model: quality(self.labels[task][self.days == day], values[self.days == day])
                for model, values in self.predictions[task].items()
            }
            for day in np.unique(self.days)
        }

    def freshness(self, percent: float) -> float:
        """Return the percentile of freshness over updated rows, in seconds."""
        return weighted_percentile(self.freshness_s, self.freshness_rows, percent)

    def rank_ms(self, percent: float) -> float:
        """Return the percentile of Rank latency, in milliseconds."""
        return float(np.percentile(self.rank_s, percent) * 1000)

    def headline(self) -> Headline:
        """Return the answer to the demo's question: the gain of online learning over a model that stays at the end of history."""
        views = self.overall(MAIN_TASK)
        gain = views[LIVE].auc - views[FROZEN].auc
        return Headline(
            f"Online learning was worth {gain:+.4f} AUC ({MAIN_TASK})",
            [
                ("AUC of the live replica", f"{views[LIVE].auc:.4f}"),
                ("gain over the frozen replica", f"{gain:+.4f}"),
                ("freshness, p50: an updated row is served", f"{self.freshness(50):.2f} s"),
                ("freshness, p99", f"{self.freshness(99):.2f} s"),
            ],
        )

    def broken_promises(self) -> list[str]:
        """Return the checks that failed: no record lost, none doubled, none refused."""
        ledger, served = self.ledger, self.history_impressions + len(self.days)
        checks = {
            f"impressions logged must be {served} (history and live), got {ledger.impressions}": ledger.impressions == served,
            f"examples joined must be {served}, one for each impression, got {ledger.examples}": ledger.examples == served,
            f"examples must be distinct, got {ledger.distinct} of {ledger.examples + ledger.retractions}": ledger.distinct
            == ledger.examples + ledger.retractions,
            f"examples trained must be all {ledger.examples + ledger.retractions} joined, got {self.trained}": self.trained
            == ledger.examples + ledger.retractions,
            f"dead letters must be 0, got {ledger.dead_letters}": ledger.dead_letters == 0,
        }
        return [text for text, holds in checks.items() if not holds]

    def figures(self) -> list[tuple[str, float, str]]:
        """Return the figures of the run as (name, value, unit)."""
        views = self.overall("long_view")
        clicks = self.overall("click")
        sparse, dense = self.towers[SPARSE], self.towers[DENSE]
        return [
            ("demo.auc_live", views[LIVE].auc, "auc"),
            ("demo.auc_frozen", views[FROZEN].auc, "auc"),
            ("demo.auc_gain_live_vs_frozen", views[LIVE].auc - views[FROZEN].auc, "auc"),
            ("demo.auc_linear", views[LINEAR].auc, "auc"),
            ("demo.auc_video_ctr", views[VIDEO_RATE].auc, "auc"),
            ("demo.ne_live", views[LIVE].ne, "ne"),
            ("demo.click_auc_live", clicks[LIVE].auc, "auc"),
            ("demo.click_auc_gain_live_vs_frozen", clicks[LIVE].auc - clicks[FROZEN].auc, "auc"),
            ("demo.tower_density", sparse.density, "ratio"),
            ("demo.tower_auc_vs_dense", sparse.quality["long_view"].auc - dense.quality["long_view"].auc, "auc"),
            ("demo.freshness_p50_s", self.freshness(50), "s"),
            ("demo.freshness_p99_s", self.freshness(99), "s"),
            ("demo.examples_per_s", self.history_examples_per_s, "examples/s"),
            ("demo.live_examples_per_s", self.live_examples_per_s, "examples/s"),
            ("demo.rank_p50_ms", self.rank_ms(50), "ms"),
            ("demo.rank_p99_ms", self.rank_ms(99), "ms"),
        ]
