"""The tables that are compared: plain ones, ones that keep fewer rows, and pools of atoms."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from passes import row_bytes
from pool_atoms import PoolRule
from tower_streams import TowerStream

from monolith_py.table import Adagrad

# The features with thousands of ids: admission, expiry and budgets are tried on them, pools of atoms on all.
LARGE = ("user_id", "video_id", "author_id", "music_id")
_DAY_S = 86_400


@dataclass(frozen=True)
class PoolVariant:
    """One way to keep all features' rows: the project's own tables, or with `pool` the prototype."""

    group: str
    label: str
    dim: int
    pool: PoolRule | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # of FeatureConfig, for the LARGE features
    byte_share: float | None = None  # a budget for each of the LARGE features, as a share of the bytes of all its rows

    @property
    def name(self) -> str:
        """Return what no other variant is called."""
        return f"{self.group}, {self.label}"

    def stream(self, stream: TowerStream) -> TowerStream:
        """Return the stream with rows as the variant has them: every fid gets one at once and for ever unless `settings` say otherwise."""
        features = copy.deepcopy(stream.settings["features"])
        for feature in features:
            for name in ("admit_after", "ttl_s"):
                feature.pop(name, None)
            feature["dim"] = self.dim
            if feature["name"] in LARGE:
                feature.update(self.settings)
                if self.byte_share is not None:
                    num_rows = len(np.unique(stream.features[feature["name"]].fids))
                    feature["budget_bytes"] = int(self.byte_share * num_rows * row_bytes(self.dim))
        return dataclasses.replace(stream, settings={**stream.settings, "features": features})


def adagrad_of(stream: TowerStream) -> Adagrad:
    """Return the rule of the stream's rows."""
    settings = stream.settings["optimizer"]["sparse"]
    return Adagrad(lr=settings["lr"], initial_accumulator=settings["initial_accumulator"])


def _plain(dim: int) -> PoolVariant:
    return PoolVariant("plain", f"dim {dim}", dim)


def _budget(dim: int, share: float, eviction: str = "lfu") -> PoolVariant:
    return PoolVariant(f"budget, {eviction}", f"dim {dim}, {share:.0%} of the bytes", dim, None, {"eviction": eviction}, share)


def _pool(dim: int, share: float, suffix: str = "", **rule: Any) -> PoolVariant:
    group = "static atoms" if rule.get("kind") == "static" else "pool"
    return PoolVariant(group, f"dim {dim}, {share:.0%} live{suffix}", dim, PoolRule(share, **rule))


PLAIN = {dim: _plain(dim) for dim in (32, 16, 12, 8, 4)}
FEWER = (
    *(_budget(32, share) for share in (0.5, 0.25)),
    *(_budget(16, share) for share in (0.5, 0.25)),
    *(_budget(16, share, "score") for share in (0.5, 0.25)),
    _budget(8, 0.5),
    *(_budget(4, share) for share in (0.6, 0.45)),
    PoolVariant("admission, count", "dim 16, 3", 16, None, {"admit_after": 3}),
    PoolVariant("admission, count", "dim 16, 10", 16, None, {"admit_after": 10}),
    PoolVariant("TTL", "dim 16, 2 d", 16, None, {"ttl_s": 2 * _DAY_S}),
)
CONTROLS = (*PLAIN.values(), *FEWER)
# With all atoms live the prototype must learn what the project's tables do.
ALL_LIVE = _pool(16, 1.0)
STATIC = tuple(_pool(dim, share, kind="static") for dim in (32, 16) for share in (0.5, 0.25))
POOLS = tuple(_pool(dim, share) for dim in (32, 16) for share in (0.5, 0.25))
# Ways a pool could do better: other atoms, another score, another pace, an atom for every row.
TRIED = (
    _pool(16, 0.5, ", atoms of 1 weight", atom=1),
    _pool(16, 0.5, ", atoms of 16: whole rows", atom=16),
    _pool(16, 0.5, ", keep by summed squares", keep="gradient"),
    _pool(16, 0.5, ", a tenth every 25 steps", every=25, swap=0.1),
    _pool(32, 0.5, ", every row's first atom", floor=True),
    _pool(16, 0.75, ", every row's first atom", floor=True),
)
EVERYTHING = (*CONTROLS, ALL_LIVE, *STATIC, *POOLS, *TRIED)
