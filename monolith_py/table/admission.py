"""Admission of fids to rows, and the memory budget that evicts rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from monolith_py.table.arguments import whole

_MOST_SKETCH_BYTES = 2**40


@dataclass(frozen=True)
class Admission:
    """Rule by which sightings of a fid lead to its row; k is `admit_after`.

    - "count": at the k-th sighting, exactly. Each candidate takes an entry of the id map (about 25 bytes) until it expires.
    - "sketch": at the k-th sighting within the last `window_s` seconds of event time (three quarters of it at least). Counts take
      `sketch_bytes` of memory (at least 16 KiB, rounded up to a power of two) for any number of fids. They are never too low. They are
      too high by at most 3 N / 7 L on average, for N sightings of candidates in a window and L = sketch_bytes / 64; by t or more with a
      probability of at most 3 N / (7 L t).
    - "proportional": with probability c / k in a batch with c sightings of the fid. It takes no memory.
    - "geometric": with probability 1 - 0.05 ** (c / k): 95 % of fids are admitted within k sightings. It takes no memory.

    The probabilities are those of Monolith's probabilistic filter; the draws are a pure function of (seed, fid, number of the batch).
    """

    kind: Literal["count", "sketch", "proportional", "geometric"] = "count"
    sketch_bytes: int = 1 << 22
    window_s: int = 86_400

    def __post_init__(self) -> None:
        if self.kind not in ("count", "sketch", "proportional", "geometric"):
            raise ValueError(f"admission must be count, sketch, proportional or geometric, got {self.kind!r}")
        if not 64 <= whole("sketch_bytes", self.sketch_bytes) <= _MOST_SKETCH_BYTES:
            raise ValueError(f"sketch_bytes must be in 64..2^40, got {self.sketch_bytes!r}")
        if whole("window_s", self.window_s) < 1:
            raise ValueError(f"window_s must be >= 1, got {self.window_s!r}")

    def core_settings(self) -> dict[str, Any]:
        """Return the arguments of `_core.Table` for this rule."""
        is_sketch = self.kind == "sketch"
        return {
            "admission": self.kind,
            "sketch_bytes": int(self.sketch_bytes) if is_sketch else 0,
            "sketch_window_s": int(self.window_s) if is_sketch else 0,
        }


EXACT_COUNT = Admission()


@dataclass(frozen=True)
class MemoryBudget:
    """Memory limit of a table's rows in bytes, and the eviction order: least recently seen, least often seen, or lowest score.

    The score of a row is its count of sightings, halved for each `half_life_s` since the last one. It is the default: at every measured
    budget it costs less AUC than the least recently seen (tests/evidence/TABLE.md), and unlike plain counts it forgets.

    A look-up that inserts first evicts, so the new rows of its batch exceed the budget until the next one. Rows seen in the last ten
    seconds of event time (or thousandth of the TTL) go only if all others are gone. The threshold comes from a sample of priorities, so
    the evicted rows are about the lowest.
    """

    bytes: int
    eviction: Literal["lru", "lfu", "score"] = "score"
    half_life_s: int = 86_400

    def __post_init__(self) -> None:
        if not 1 <= whole("bytes of a budget", self.bytes) < 2**63 or whole("half_life_s of a budget", self.half_life_s) < 1:
            raise ValueError(f"bytes and half_life_s of a budget must be >= 1, got {self.bytes!r} and {self.half_life_s!r}")
        if self.eviction not in ("lru", "lfu", "score"):
            raise ValueError(f"eviction must be lru, lfu or score, got {self.eviction!r}")

    def core_settings(self) -> dict[str, Any]:
        """Return the arguments of `_core.Table` for this budget."""
        return {"eviction": self.eviction, "budget_bytes": int(self.bytes), "half_life_s": int(self.half_life_s)}


# Arguments of `_core.Table` for a table without a budget.
NO_BUDGET: Mapping[str, Any] = {"eviction": "none", "budget_bytes": 0, "half_life_s": 0}
