"""Which fids get a row, and which rows go when memory is short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Admission:
    """How sightings of a fid without a row lead to one; `admit_after` is k.

    - "count": at the k-th sighting, exactly. Each fid that waits takes an entry of the id map (about 25 bytes) until it expires.
    - "sketch": at the k-th sighting within the last `window_s` seconds of event time (three to four quarters of it), counted in
      `sketch_bytes` of memory (at least 16 KiB, brought up to a power of two) whatever comes. It never counts too few. It counts too
      many by at most 3 N / 7 L on average, where N sightings of waiting fids fall into a window and L = sketch_bytes / 64; by t or more
      with a chance of at most 3 N / (7 L t).
    - "proportional": with a chance of c / k in a batch that sights the fid c times. No memory.
    - "geometric": with a chance of 1 - 0.05 ** (c / k): 95 % are admitted within k sightings. No memory.

    The chances are those of Monolith's probabilistic filter; the draws are a pure function of (seed, fid, number of the batch).
    """

    kind: Literal["count", "sketch", "proportional", "geometric"] = "count"
    sketch_bytes: int = 1 << 22
    window_s: int = 86_400

    def __post_init__(self) -> None:
        if self.kind not in ("count", "sketch", "proportional", "geometric"):
            raise ValueError(f"admission must be count, sketch, proportional or geometric, got {self.kind!r}")
        if self.sketch_bytes < 64 or self.window_s < 1:
            raise ValueError(f"sketch_bytes must be >= 64 and window_s >= 1, got {self.sketch_bytes!r} and {self.window_s!r}")


EXACT_COUNT = Admission()


@dataclass(frozen=True)
class MemoryBudget:
    """How much memory the rows of a table may take, and which go first: the least recently seen, the least often seen, or the least score.

    The score of a row is its count of sightings halved for each `half_life_s` since the last one. It is the default: at every budget that
    was measured it costs less AUC than the least recently seen (tests/evidence/TABLE.md), and unlike plain counts it forgets.

    Rows go in the call that looks fids up, before it does, so a batch's own new rows come on top of the budget until the next; rows seen
    in the last ten seconds of event time (or thousandth of the TTL) stay. Which rows go is settled by a sample of priorities: those that
    go have about the least.
    """

    bytes: int
    eviction: Literal["lru", "lfu", "score"] = "score"
    half_life_s: int = 86_400

    def __post_init__(self) -> None:
        if self.bytes < 1 or self.half_life_s < 1:
            raise ValueError(f"bytes and half_life_s of a budget must be >= 1, got {self.bytes!r} and {self.half_life_s!r}")
        if self.eviction not in ("lru", "lfu", "score"):
            raise ValueError(f"eviction must be lru, lfu or score, got {self.eviction!r}")
