"""What is compared: ways to turn ids into rows, and what a table may forget.

Letters: n examples, N ids of a feature, m buckets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monolith_py import _core
from monolith_py.table import Admission

Int64Array = npt.NDArray[np.int64]

DAY_S = 86_400
_GOLDEN = 0x9E3779B97F4A7C15
# The data takes about 32,000 rows, for which the default of 4 MiB would be most of the memory; a quarter of it counts well enough.
_SKETCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """How a pass learns; settings are those that did best with exact ids."""

    dim: int = 16
    batch_size: int = 256
    row_lr: float = 0.05
    row_accumulator: float = 0.01
    # Products of two rows start wider and learn faster: the best of some 30 settings tried, which at 2^12 gives "qr_product" an AUC of
    # 0.717, against 0.707 with the rate and the start values of the others and 0.699 where the quotients' rows start at one.
    product_lr: float = 0.15
    product_scale: float = 0.15
    dense_lr: float = 1e-3
    tower: tuple[int, ...] = (256, 128, 64)
    sweep_interval_s: int = 3600  # as the trainer sweeps


@dataclass(frozen=True)
class Variant:
    """One way to keep the ids of the hashed features, user and video.

    - "exact": a row for each id.
    - "hash": m rows, row = hash mod m.
    - "qr_sum", "qr_product": the quotient-remainder trick (Shi et al. 2020, section 2) on hashes: two tables of m / 2 rows, one indexed by
      the remainder, one by the quotient of the hash in a space of (m / 2)^2, so that most ids have a pair of their own. The two rows are
      added, which is the baseline of Monolith's production experiment (Liu et al. 2022, figure 8), or multiplied.
    - "qr_dense": the trick as its authors have it, on ids numbered from 0 to N - 1: remainder table of m rows, quotient table of
      ceil(N / m), rows multiplied. It takes a numbering of all ids that will ever come, which a stream does not have; here it gets one.
    """

    group: str
    label: str
    fold: Literal["exact", "hash", "qr_sum", "qr_product", "qr_dense"] = "exact"
    buckets: int = 0
    stream: Literal["kuairand", "criteo"] = "kuairand"
    recipe: Recipe = Recipe()
    counters: bool = False  # whether live counters are fed as dense features
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `Feature`, for the hashed features or those in `only`
    only: tuple[str, ...] | None = None
    budget_share: float | None = None  # of the bytes of all rows
    eviction: Literal["lru", "lfu", "score"] = "lru"

    @property
    def name(self) -> str:
        """Return what no other variant is called."""
        return f"{self.stream}: {self.group}, {self.label}"

    @property
    def has_quotients(self) -> bool:
        """Return whether a hashed feature has two tables."""
        return self.fold.startswith("qr_")

    @property
    def multiplies(self) -> bool:
        """Return whether the rows of the two tables are multiplied."""
        return self.fold in ("qr_product", "qr_dense")


def folded(ids: Int64Array, variant: Variant, seed: int) -> list[Int64Array]:
    """Return the fids that the tables of one hashed feature see, (n,) each: one array, or remainders and quotients.

    The hash is the id map's own; `seed` picks which ids meet.
    """
    if variant.fold == "exact":
        return [ids]
    if variant.fold == "qr_dense":
        numbers = np.unique(ids, return_inverse=True)[1]
        numbers = np.random.default_rng(seed).permutation(numbers.max() + 1)[numbers]
        return [numbers % variant.buckets, numbers // variant.buckets]
    hashes = _core.hash_fids(ids + np.uint64((seed + 1) * _GOLDEN % 2**64).astype(np.int64))
    if variant.fold == "hash":
        return [(hashes % np.uint64(variant.buckets)).astype(np.int64)]
    half = np.uint64(variant.buckets // 2)
    return [(hashes % half).astype(np.int64), (hashes // half % half).astype(np.int64)]


def md5_bucket(number: int, buckets: int = 1_000_000) -> int:
    """Return the bucket of an id by MD5 of its decimal digits: the hashing that gives the counts of Monolith's Table 1 (Liu et al. 2022).

    The paper does not name it. This one was found by search and meets both counts of the table exactly.

    >>> md5_bucket(0)
    317850
    """
    return int(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest(), 16) % buckets


def power(exponent: int) -> str:
    """Return how a number of buckets is written."""
    return f"2^{exponent}"


EXACT = Variant("exact", "a row for each id")
_FOLDS = {"hash": "hashed", "qr_sum": "QR sum", "qr_product": "QR product", "qr_dense": "QR product, numbered ids"}
COLLISIONS = (
    EXACT,
    *(Variant(_FOLDS["hash"], power(k), "hash", 1 << k) for k in (8, 10, 12, 13, 14, 16)),
    *(Variant(_FOLDS[fold], power(k), fold, 1 << k) for fold in ("qr_sum", "qr_product", "qr_dense") for k in (10, 12, 14)),
)

# Both rates do as well with exact ids; how much collisions cost depends on it.
COUNTERS = tuple(
    Variant(f"counters, row rate {rate}", label, fold, buckets, recipe=Recipe(row_lr=rate), counters=True)
    for rate in (0.01, 0.05)
    for label, fold, buckets in (("a row for each id", "exact", 0), (power(12), "hash", 1 << 12))
)

_ON_CRITEO = Recipe(dim=8, batch_size=128, row_lr=0.01)
CRITEO = (
    Variant("exact", "a row for each id", stream="criteo", recipe=_ON_CRITEO),
    *(Variant("hashed", power(k), "hash", 1 << k, "criteo", _ON_CRITEO) for k in (10, 12, 14, 16)),
)


def _admission(kind: str, after: int, admission: Admission, only: tuple[str, ...] | None = None, suffix: str = "") -> Variant:
    return Variant("admission", f"{kind}, {after}{suffix}", settings={"admit_after": after, "admission": admission}, only=only)


def _count(after: int, only: tuple[str, ...] | None = None, suffix: str = "") -> Variant:
    return _admission("count", after, Admission(), only, suffix)


def _sketch(after: int, days: int) -> Variant:
    return _admission(f"sketch of {days} d", after, Admission("sketch", _SKETCH_BYTES, days * DAY_S))


def _ttl(days: int, only: tuple[str, ...] | None = None, suffix: str = "") -> Variant:
    return Variant("TTL", f"{days} d{suffix}", settings={"ttl_s": days * DAY_S}, only=only)


# One feature at a time, for some settings: which of the two the cost comes from.
_ALONE = ((("user_id",), ", users alone"), (("video_id",), ", videos alone"))
FORGETTING = (
    EXACT,
    *(_count(after) for after in (2, 3, 5, 10)),
    *(_sketch(after, days) for days in (1, 7) for after in (2, 5)),
    *(_admission("geometric", after, Admission("geometric")) for after in (2, 5)),
    *(_ttl(days) for days in (1, 2, 3, 5, 7)),
    *(
        Variant("budget", f"{eviction}, {share} %", budget_share=share / 100, eviction=eviction)
        for eviction in ("lru", "lfu", "score")
        for share in (75, 50, 25, 10)
    ),
    *(_count(after, only, suffix) for after in (2, 5) for only, suffix in _ALONE),
    *(_ttl(3, only, suffix) for only, suffix in _ALONE),
)
