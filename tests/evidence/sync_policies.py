"""Ways to serve a model that learns online: how often a replica gets its rows, its dense parameters and its counters."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Interval of synchronization in seconds of event time. At 10 impressions a minute a batch of 16 takes 100 s.
NEVER, BATCH = "never", "batch"
INTERVALS_S = {NEVER: math.inf, "24 h": 86_400.0, "5 h": 18_000.0, "1 h": 3600.0, "10 min": 600.0, "1 min": 60.0, BATCH: 0.0}
# Training that a lost snapshot takes back, seconds.
LOST_S = {"1 h": 3600, "6 h": 21_600, "24 h": 86_400}
# Parts of the time after the loss, seconds.
AFTER_S = {"next 6 h": 21_600.0, "next 24 h": 86_400.0, "all after": math.inf}


@dataclass(frozen=True)
class Policy:
    """Intervals at which a replica gets its rows and its dense parameters."""

    sparse: str
    dense: str
    has_live_counters: bool = True  # has no effect on a model without counters

    @property
    def name(self) -> str:
        """Return the name of the policy."""
        return f"{self.sparse} / {self.dense}" + ("" if self.has_live_counters else " / frozen counters")


FROZEN, LIVE = Policy(NEVER, NEVER), Policy(BATCH, BATCH)
DAILY_DENSE = [Policy(interval, "24 h") for interval in ("1 h", "10 min", "1 min", BATCH)]
# Of the model of ids.
IDS = [
    *(Policy(interval, interval) for interval in INTERVALS_S),
    *(Policy(interval, NEVER) for interval in INTERVALS_S if interval != NEVER),
    *DAILY_DENSE,
    Policy(NEVER, "1 min"),
]
# Of the model of ids and counters.
STALE = Policy(NEVER, NEVER, has_live_counters=False)
COUNTERS = [STALE, Policy(BATCH, BATCH, has_live_counters=False), FROZEN, *(Policy(one, one) for one in ("24 h", "1 h", "1 min", BATCH))]
