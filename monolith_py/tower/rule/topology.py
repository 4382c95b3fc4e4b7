"""The one drop-and-grow rule: which atoms live next, by the scores of all. Pure: arrays in, masks out.

    keep = the best target - num_swap of the live, by keep score
    new  = the best target - |keep| of those not kept, by grow score
    live = keep + new

With a target below the number of the live this is pruning, with num_swap 0 and a steady target nothing changes, with random grow scores
it is SET (Mocanu et al. 2018), with gradients RigL (Evci et al. 2020) and DSL (Wang et al. 2024). As in these an atom just dropped may
come straight back; it is in the mask before and after, so nothing happens to it. Equal scores: the lower place first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.atoms import Mask, Scores


@dataclass(frozen=True)
class ScoredLayer:
    """A layer's atoms before a swap, all of the shape of its grid: (blocks, I), or (O,) for neurons.

    Each block must have a live atom. `protected`: newborns that are not to be dropped.

    Raises:
        ValueError: shapes differ, a score is not finite, or a block has no live atom.
    """

    live: Mask
    keep: Scores
    grow: Scores
    protected: Mask | None = None

    def __post_init__(self) -> None:
        for name in ("keep", "grow", "protected"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != self.live.shape:
                raise ValueError(f"{name} must have the shape of live, {self.live.shape}, got {values.shape}")
            bad = np.count_nonzero(~np.isfinite(values))
            if bad:
                raise ValueError(f"{name} scores must be finite, got {bad} that are not")
        empty = np.count_nonzero(~np.atleast_2d(self.live).any(axis=1))
        if empty:
            raise ValueError(f"live must have an atom in each block, got {empty} blocks without")


@dataclass(frozen=True)
class Limits:
    """What keeps a pool of several layers from starving some and filling others.

    A layer has at least `floor` of the atoms that a uniform split would give it, and at most `cap` of its own, or the uniform split
    where that is more. A layer that starts below its floor is the first to grow. A target too small for both the floors and an atom
    for each block breaks the floors.
    """

    floor: float = 0.0
    cap: float = 1.0


@dataclass(frozen=True)
class _Pool:
    """The layers of a pool end to end, (atoms of all,)."""

    live: Mask
    keep: Scores
    grow: Scores
    protected: Mask
    # The live atom of each block that goes last.
    last: Mask
    floors: list[int]
    caps: list[int]
    spans: list[slice] = field(default_factory=list)


def choose(layers: Sequence[ScoredLayer], target: int, num_swap: int, limits: Limits | None = None) -> list[Mask]:
    """Return the next masks of the layers, which share one pool of exactly `target` live atoms.

    At most `num_swap` live atoms go, besides those by which the live exceed the target or a layer its cap. In this order, as far as
    the target allows: each block keeps one atom, each layer its floor, the protected stay, the best stay. A layer at its floor swaps
    only while room is left to grow again what it drops. Scores of several layers are compared after division by their layer's mean:
    that of the live for `keep`, of all for `grow`.

    Raises:
        ValueError: the target leaves a block without an atom or exceeds the atoms there are, or num_swap is below 0.
    """
    sizes = [layer.live.size for layer in layers]
    blocks = sum(len(np.atleast_2d(layer.live)) for layer in layers)
    if not blocks <= target <= sum(sizes):
        raise ValueError(f"target must be in [{blocks}, {sum(sizes)}], an atom for each block up to all, got {target}")
    if num_swap < 0:
        raise ValueError(f"num_swap must be >= 0, got {num_swap}")
    pool = _join(layers, target, limits or Limits())
    kept = _keep(pool, target, num_swap, [_staying(floor, num_swap, target) for floor in pool.floors])
    if _owed(pool, kept).sum() > target - kept.sum():
        kept = _keep(pool, target, num_swap, pool.floors)
    rooms = [cap - int(kept[span].sum()) for cap, span in zip(pool.caps, pool.spans, strict=True)]
    room = target - int(kept.sum())
    new = _take(pool.grow, _per_layer(pool, pool.grow, ~kept, rooms), [_owed(pool, kept)], room)
    after = kept | new
    return [after[span].reshape(layer.live.shape) for span, layer in zip(pool.spans, layers, strict=True)]


def choose_runs(layer: ScoredLayer, num_kept: int, width: int, num_swap: int) -> Mask:
    """Return the next mask of a layer where each run of `width` consecutive inputs keeps exactly `num_kept`: N:M.

    The live that go are the worst of all runs together, at most `num_swap` besides what a run has too many; each run grows its own.

    Raises:
        ValueError: the runs do not divide the inputs, or num_kept or num_swap is out of range.
    """
    if layer.live.ndim != 2 or layer.live.shape[1] % width:
        raise ValueError(f"live must be (blocks, I) with I a multiple of {width}, got {layer.live.shape}")
    if not 1 <= num_kept <= width or num_swap < 0:
        raise ValueError(f"num_kept must be in [1, {width}] and num_swap >= 0, got {num_kept} and {num_swap}")
    live = layer.live.reshape(-1, width)  # (runs, M)
    protected = np.zeros_like(live) if layer.protected is None else layer.protected.reshape(-1, width) & live
    keep, grow = (np.asarray(scores, np.float64).reshape(-1, width) for scores in (layer.keep, layer.grow))
    order = np.where(protected, np.inf, np.where(live, keep, -np.inf))
    eligible = live & (_ranks(order) < num_kept)
    target = len(live) * num_kept
    count = max(target - num_swap, int((eligible & protected).sum()))
    kept = _take(keep.ravel(), eligible.ravel(), [protected.ravel()], count).reshape(live.shape)
    wanted = num_kept - kept.sum(axis=1, keepdims=True)  # (runs, 1)
    new = _ranks(np.where(kept, -np.inf, grow)) < wanted
    return np.asarray(kept | new).reshape(layer.live.shape)


def choose_by(config: SparsityConfig, layers: Sequence[ScoredLayer], targets: Sequence[int], share: float) -> list[Mask]:
    """Return the next masks under the config's pool. `targets`: of `budget.atom_targets`; `share`: of the live that may be swapped."""
    if config.scope == "model":
        total = sum(targets)
        return choose(layers, total, swap_count(share, total), Limits(config.min_layer_share, config.max_layer_density))
    if config.run:
        width = config.run[1]
        kept = [target * width // layer.live.size for layer, target in zip(layers, targets, strict=True)]
        return [
            choose_runs(layer, num_kept, width, swap_count(share, target))
            for layer, num_kept, target in zip(layers, kept, targets, strict=True)
        ]
    return [choose([layer], target, swap_count(share, target))[0] for layer, target in zip(layers, targets, strict=True)]


def first_masks(
    config: SparsityConfig, grids: Sequence[tuple[int, ...]], targets: Sequence[int], generator: np.random.Generator
) -> list[Mask]:
    """Return the masks to start with: all live before a ramp, else a random draw of exactly the targets, uniform but for one atom
    of each block (or N of each run)."""
    everything = [np.ones(grid, np.bool_) for grid in grids]
    if config.ramp is not None:
        return everything
    layers = [ScoredLayer(mask, generator.random(mask.shape), np.zeros(mask.shape)) for mask in everything]
    own = config.model_copy(update={"scope": "layer"}) if config.scope == "model" else config
    return choose_by(own, layers, targets, 0.0)


def swap_count(share: float, target: int) -> int:
    """Return how many of `target` atoms a swap may exchange: rounded up, as DSL does, so that swaps of small layers never end."""
    return math.ceil(share * target)


def _join(layers: Sequence[ScoredLayer], target: int, limits: Limits) -> _Pool:
    sizes = [layer.live.size for layer in layers]
    ends = np.cumsum(sizes).tolist()
    uniform = [target * size / sum(sizes) for size in sizes]
    blocks = [len(np.atleast_2d(layer.live)) for layer in layers]
    alone = len(layers) == 1
    return _Pool(
        live=np.concatenate([layer.live.ravel() for layer in layers]),
        keep=np.concatenate([_scaled(layer.keep, layer.live, alone) for layer in layers]),
        grow=np.concatenate([_scaled(layer.grow, None, alone) for layer in layers]),
        protected=np.concatenate([_protected(layer).ravel() for layer in layers]),
        last=np.concatenate([_last_of_blocks(layer).ravel() for layer in layers]),
        floors=[math.floor(limits.floor * share) for share in uniform],
        caps=[
            min(size, max(math.floor(limits.cap * size), math.ceil(share), least))
            for size, share, least in zip(sizes, uniform, blocks, strict=True)
        ],
        spans=[slice(end - size, end) for end, size in zip(ends, sizes, strict=True)],
    )


def _scaled(scores: Scores, among: Mask | None, alone: bool) -> Scores:
    """Return the scores divided by their mean, flat; as they are where no other layer is there to compare with."""
    mean = 0.0 if alone else float(np.mean(scores, where=True if among is None else among, dtype=np.float64))
    return scores.ravel() if mean == 0 else scores.ravel().astype(np.float64) / mean


def _protected(layer: ScoredLayer) -> Mask:
    return np.zeros_like(layer.live) if layer.protected is None else layer.protected & layer.live


def _last_of_blocks(layer: ScoredLayer) -> Mask:
    """Return each block's best live atom, of the protected where it has some."""
    live, protected = np.atleast_2d(layer.live), np.atleast_2d(_protected(layer))
    among = np.where(protected.any(axis=1, keepdims=True), protected, live)
    best = np.where(among, np.atleast_2d(layer.keep), -np.inf).argmax(axis=1)
    last = np.zeros_like(live)
    last[np.arange(len(live)), best] = True
    return last.reshape(layer.live.shape)


def _staying(floor: int, num_swap: int, target: int) -> int:
    """Return how many of a floor's atoms must stay, so that a layer at its floor has its share of the swaps."""
    return floor - num_swap * floor // target


def _keep(pool: _Pool, target: int, num_swap: int, staying: Sequence[int]) -> Mask:
    """Return what is kept of the live; of each layer at least as many as are said to stay."""
    layers = list(zip(pool.spans, staying, pool.caps, strict=True))
    # The last of the blocks count towards what stays, so that of a layer no more than the larger of both is firm.
    floors = np.concatenate([_take(pool.keep[span], pool.live[span], [pool.last[span]], count) for span, count, _ in layers])
    tiers = [pool.last, floors, pool.protected]
    eligible = np.concatenate([_take(pool.keep[span], pool.live[span], [tier[span] for tier in tiers], cap) for span, _, cap in layers])
    firm = int((eligible & (pool.last | floors | pool.protected)).sum())
    return _take(pool.keep, eligible, tiers, min(target, max(target - num_swap, firm)))


def _owed(pool: _Pool, kept: Mask) -> Mask:
    """Return the atoms that layers below their floor grow first."""
    missing = [floor - int(kept[span].sum()) for floor, span in zip(pool.floors, pool.spans, strict=True)]
    return _per_layer(pool, pool.grow, ~kept, missing)


def _per_layer(pool: _Pool, scores: Scores, among: Mask, counts: Sequence[int]) -> Mask:
    """Return the best of each layer, as many as its count."""
    return np.concatenate([_top(scores[span], among[span], count) for span, count in zip(pool.spans, counts, strict=True)])


def _take(scores: Scores, among: Mask, first: Sequence[Mask], count: int) -> Mask:
    """Return the best `count` among those given, all of one tier in `first` before any of the next."""
    taken = np.zeros_like(among)
    for tier in (*first, among):
        taken |= _top(scores, among & tier & ~taken, count - int(taken.sum()))
    return taken


def _top(scores: Scores, among: Mask, count: int) -> Mask:
    """Return the best `count` among those given, or all where they are fewer."""
    places = np.flatnonzero(among)
    found = np.zeros_like(among)
    count = min(count, len(places))
    if count <= 0:
        return found
    values = scores[places]
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    above = values > threshold
    found[places[above]] = True
    found[places[values == threshold][: count - int(above.sum())]] = True
    return found


def _ranks(scores: Scores) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the rank of each in its row, 0 the best, equal scores by place."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.asarray(np.argsort(order, axis=1, kind="stable"))
