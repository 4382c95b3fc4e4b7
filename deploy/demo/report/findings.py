"""Everything the report says, computed once from what a run measured. Letters: n impressions of the live phase, T tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monolith_demo.report.ledger import Ledger
from monolith_demo.report.measures import Quality, quality, weighted_percentile
from monolith_demo.report.towers import DENSE, SPARSE, TowerPass
from monolith_py.table import TableStats

LIVE, FROZEN, LINEAR, VIDEO_RATE = "live replica", "frozen replica", "online linear learner (Vowpal Wabbit)", "running rate of each video"


@dataclass
class Findings:
    """What a run measured. `predictions[task][model]` and `labels[task]` are (n,)."""

    days: npt.NDArray[np.int64]  # (n,)
    labels: dict[str, npt.NDArray[np.bool_]]
    predictions: dict[str, dict[str, npt.NDArray[np.float64]]]
    freshness_s: npt.NDArray[np.float64]  # of each training step
    freshness_rows: npt.NDArray[np.float64]
    rank_s: npt.NDArray[np.float64]  # (n,) the live replica, as its client sees it
    history_examples: int
    history_examples_per_s: float
    live_examples_per_s: float
    live_s: float
    table_stats: dict[str, TableStats]
    ledger: Ledger
    trained: int  # examples, as the last checkpoint says
    history_impressions: int
    num_versions: int  # different models that scored
    towers: dict[str, TowerPass]  # the job's own and the dense one, on the same examples
    took_s: dict[str, float] = field(default_factory=dict)  # by phase

    def overall(self, task: str) -> dict[str, Quality]:
        """Return the quality of each model over all days."""
        return {model: quality(self.labels[task], values) for model, values in self.predictions[task].items()}

    def by_day(self, task: str) -> dict[int, dict[str, Quality]]:
        """Return the quality of each model on each day."""
        return {
            int(day): {
                model: quality(self.labels[task][self.days == day], values[self.days == day])
                for model, values in self.predictions[task].items()
            }
            for day in np.unique(self.days)
        }

    def freshness(self, percent: float) -> float:
        """Return the seconds within which `percent` of the updated rows were servable."""
        return weighted_percentile(self.freshness_s, self.freshness_rows, percent)

    def rank_ms(self, percent: float) -> float:
        """Return the milliseconds within which `percent` of the requests were answered."""
        return float(np.percentile(self.rank_s, percent) * 1000)

    def broken_promises(self) -> list[str]:
        """Return what should hold exactly and does not: nothing lost, nothing doubled, nothing refused."""
        ledger, served = self.ledger, self.history_impressions + len(self.days)
        checks = {
            f"impressions logged must be {served}, history and served, got {ledger.impressions}": ledger.impressions == served,
            f"examples joined must be one for each of {served} impressions, got {ledger.examples}": ledger.examples == served,
            f"examples must be distinct, got {ledger.distinct} of {ledger.examples + ledger.retractions}": ledger.distinct
            == ledger.examples + ledger.retractions,
            f"examples trained must be all that were joined, {ledger.examples + ledger.retractions}, got {self.trained}": self.trained
            == ledger.examples + ledger.retractions,
            f"dead letters must be 0, got {ledger.dead_letters}": ledger.dead_letters == 0,
        }
        return [text for text, holds in checks.items() if not holds]

    def figures(self) -> list[tuple[str, float, str]]:
        """Return the (name, value, unit) lines of the run."""
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
