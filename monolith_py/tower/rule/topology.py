"""Drop-and-grow rule: the next live atoms, by scores. Pure functions of arrays, which return masks.

    keep = the best target - num_swap of the live, by keep score
    new  = the best target - |keep| of those not kept, by grow score
    live = keep + new

A target below the number of live atoms makes this pruning; with num_swap 0 and a constant target nothing changes; with random grow scores
it is SET (Mocanu et al. 2018), with gradients RigL (Evci et al. 2020) and DSL (Wang et al. 2024). As in these, an atom may be dropped and
grown by the same swap: it is in both masks, so nothing happens to it. Of equal scores the lower place is first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from monolith_py.tower.layers.atoms import Mask, Scores


@dataclass(frozen=True)
class ScoredLayer:
    """Live mask and scores of a layer before a swap, in the shape of its grid: (blocks, I), or (O,) for neurons.

    Each block must have a live atom. `protected`: newborns that must not be dropped. `groups`: widths of groups of neighbouring inputs,
    which sum to I; () for one group. `ripe`: atoms that a swap may grow, None for all.

    Raises:
        ValueError: shapes differ, a score is not finite, a block has no live atom, or the groups are not those of the inputs.
    """

    live: Mask
    keep: Scores
    grow: Scores
    protected: Mask | None = None
    groups: tuple[int, ...] = ()
    ripe: Mask | None = None

    def __post_init__(self) -> None:
        for name in ("keep", "grow", "protected", "ripe"):
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
        if self.groups and sum(self.groups) != self.live.shape[-1]:
            raise ValueError(f"groups must sum to {self.live.shape[-1]} inputs, got {sum(self.groups)}")


@dataclass(frozen=True)
class Limits:
    """Bounds on the live atoms of each layer when several layers share one target, and of each group of inputs.

    A layer has at least `floor` times its number at uniform density, and at most `cap` times its atoms, or its number at uniform density
    if that is more. A group of a layer has at least `group_floor` times its number at uniform density. A layer or group below its floor
    grows first. A target too small for the floors and one atom per block breaks the floors.
    """

    floor: float = 0.0
    cap: float = 1.0
    group_floor: float = 0.0


@dataclass(frozen=True)
class _Part:
    """A layer or a group of its inputs: places among the atoms of all layers, and the least number of live ones."""

    places: slice | NDArray[np.int64]
    floor: int


@dataclass(frozen=True)
class _Scope:
    """Layers that share one target, concatenated: (atoms of all layers,)."""

    live: Mask
    keep: Scores
    grow: Scores
    protected: Mask
    # The live atom of each block that is dropped last.
    last: Mask
    parts: list[_Part]  # groups, then layers
    caps: list[int]
    spans: list[slice] = field(default_factory=list)


def choose(layers: Sequence[ScoredLayer], target: int, num_swap: int, limits: Limits | None = None) -> list[Mask]:
    """Return the next masks of layers that share exactly `target` live atoms.

    At most `num_swap` live atoms are dropped, besides those above the target or above a layer's cap. As far as the target allows, in this
    order: each block keeps one atom, each group and layer its floor, protected atoms are kept, the best atoms are kept. A layer or group at
    its floor swaps only as many atoms as it can regrow. Scores of several layers are divided by the mean of their layer: the mean over live
    atoms for `keep`, over all for `grow`.

    Raises:
        ValueError: `target` leaves a block without an atom or exceeds the number of atoms, or `num_swap` is below 0.
    """
    sizes = [layer.live.size for layer in layers]
    blocks = sum(len(np.atleast_2d(layer.live)) for layer in layers)
    if not blocks <= target <= sum(sizes):
        raise ValueError(f"target must be in [{blocks}, {sum(sizes)}], an atom for each block up to all, got {target}")
    if num_swap < 0:
        raise ValueError(f"num_swap must be >= 0, got {num_swap}")
    scope = _join(layers, target, limits or Limits())
    floors = [part.floor for part in scope.parts]
    kept = _keep(scope, target, num_swap, [_staying(floor, num_swap, target) for floor in floors])
    if _growth_to_floors(scope, kept).sum() > target - kept.sum():
        kept = _keep(scope, target, num_swap, floors)
    first = _growth_to_floors(scope, kept)
    rooms = [cap - int(kept[span].sum()) for cap, span in zip(scope.caps, scope.spans, strict=True)]
    among = np.concatenate(
        [_take(scope.grow[span], ~kept[span], [first[span]], room) for span, room in zip(scope.spans, rooms, strict=True)]
    )
    new = _take(scope.grow, among, [first], target - int(kept.sum()))
    after = kept | new
    return [after[span].reshape(layer.live.shape) for span, layer in zip(scope.spans, layers, strict=True)]


def choose_runs(layer: ScoredLayer, num_kept: int, width: int, num_swap: int) -> Mask:
    """Return the next mask of a layer with exactly `num_kept` live atoms in each run of `width` consecutive inputs: N:M.

    The worst atoms over all runs are dropped, at most `num_swap` besides those that a run has in excess; each run regrows its own number.

    Raises:
        ValueError: `width` does not divide the inputs, or `num_kept` or `num_swap` is out of range.
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


def _join(layers: Sequence[ScoredLayer], target: int, limits: Limits) -> _Scope:
    sizes = [layer.live.size for layer in layers]
    ends = np.cumsum(sizes).tolist()
    uniform = [target * size / sum(sizes) for size in sizes]
    blocks = [len(np.atleast_2d(layer.live)) for layer in layers]
    single = len(layers) == 1
    return _Scope(
        live=np.concatenate([layer.live.ravel() for layer in layers]),
        keep=np.concatenate([_scaled(layer.keep, layer.live, single) for layer in layers]),
        grow=np.concatenate([_scaled(layer.grow, None, single) for layer in layers]),
        protected=np.concatenate([_protected(layer).ravel() for layer in layers]),
        last=np.concatenate([_last_of_blocks(layer).ravel() for layer in layers]),
        parts=_parts(layers, uniform, limits),
        caps=[
            min(size, max(math.floor(limits.cap * size), math.ceil(share), least))
            for size, share, least in zip(sizes, uniform, blocks, strict=True)
        ],
        spans=[slice(end - size, end) for end, size in zip(ends, sizes, strict=True)],
    )


def _parts(layers: Sequence[ScoredLayer], uniform: Sequence[float], limits: Limits) -> list[_Part]:
    """Return the parts with their floors. `uniform`: number of live atoms of each layer at uniform density."""
    groups, wholes, start = [], [], 0
    for layer, share in zip(layers, uniform, strict=True):
        size, width = layer.live.size, layer.live.shape[-1]
        if limits.group_floor:
            places = start + np.arange(size, dtype=np.int64).reshape(-1, width)
            for first, last in pairwise(accumulate(layer.groups, initial=0)):
                own = math.floor(limits.group_floor * share * (last - first) / width)
                groups.append(_Part(places[:, first:last].ravel(), own))
        wholes.append(_Part(slice(start, start + size), math.floor(limits.floor * share)))
        start += size
    return [*groups, *wholes]


def _scaled(scores: Scores, among: Mask | None, single: bool) -> Scores:
    """Return the scores divided by their mean over `among`, flat; unchanged for a `single` layer."""
    mean = 0.0 if single else float(np.mean(scores, where=True if among is None else among, dtype=np.float64))
    return scores.ravel() if mean == 0 else scores.ravel().astype(np.float64) / mean


def _protected(layer: ScoredLayer) -> Mask:
    return np.zeros_like(layer.live) if layer.protected is None else layer.protected & layer.live


def _last_of_blocks(layer: ScoredLayer) -> Mask:
    """Return the best live atom of each block, or its best protected atom if it has one."""
    live, protected = np.atleast_2d(layer.live), np.atleast_2d(_protected(layer))
    among = np.where(protected.any(axis=1, keepdims=True), protected, live)
    best = np.where(among, np.atleast_2d(layer.keep), -np.inf).argmax(axis=1)
    last = np.zeros_like(live)
    last[np.arange(len(live)), best] = True
    return last.reshape(layer.live.shape)


def _staying(floor: int, num_swap: int, target: int) -> int:
    """Return the number of a floor's atoms that must be kept, so that a layer at its floor takes part in swaps."""
    return floor - num_swap * floor // target


def _keep(scope: _Scope, target: int, num_swap: int, staying: Sequence[int]) -> Mask:
    """Return the kept live atoms, at least `staying` of each part."""
    floors = np.zeros_like(scope.live)
    for part, count in zip(scope.parts, staying, strict=True):
        # The last atoms of the blocks count towards `staying`, so that the larger of both numbers is firm.
        at = part.places
        floors[at] |= _take(scope.keep[at], scope.live[at], [scope.last[at], floors[at]], count)
    tiers = [scope.last, floors, scope.protected]
    eligible = np.concatenate(
        [
            _take(scope.keep[span], scope.live[span], [tier[span] for tier in tiers], cap)
            for span, cap in zip(scope.spans, scope.caps, strict=True)
        ]
    )
    firm = int((eligible & (scope.last | floors | scope.protected)).sum())
    return _take(scope.keep, eligible, tiers, min(target, max(target - num_swap, firm)))


def _growth_to_floors(scope: _Scope, kept: Mask) -> Mask:
    """Return the atoms that bring parts up to their floors."""
    grown = np.zeros_like(kept)
    for part in scope.parts:
        at = part.places
        missing = part.floor - int((kept[at] | grown[at]).sum())
        grown[at] |= _top(scope.grow[at], ~kept[at] & ~grown[at], missing)
    return grown


def _take(scores: Scores, among: Mask, first: Sequence[Mask], count: int) -> Mask:
    """Return the best `count` of `among`, all of one tier in `first` before the next tier."""
    taken = np.zeros_like(among)
    for tier in (*first, among):
        taken |= _top(scores, among & tier & ~taken, count - int(taken.sum()))
    return taken


def _top(scores: Scores, among: Mask, count: int) -> Mask:
    """Return the best `count` of `among`, or all if they are fewer."""
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
    """Return the rank of each score in its row, 0 for the best, equal scores by place."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.asarray(np.argsort(order, axis=1, kind="stable"))
