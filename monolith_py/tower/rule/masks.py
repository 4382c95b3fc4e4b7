"""Next and first masks of a tower's layers under a config: the rule of `topology` for each group of layers that share a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.layers.atoms import Mask
from monolith_py.tower.rule.topology import Limits, ScoredLayer, choose, choose_runs


def choose_by(config: SparsityConfig, layers: Sequence[ScoredLayer], targets: Sequence[int], drop_fraction: float) -> list[Mask]:
    """Return the next masks under the config's scope. `targets`: of `density.atom_targets`; `drop_fraction`: of the live atoms."""
    if config.scope == "model":
        total = sum(targets)
        limits = Limits(config.min_layer_share, config.max_layer_density, config.min_feature_share)
        return choose(_ripe_first(layers), total, _swaps(layers, drop_fraction, total), limits)
    if config.run:
        width = config.run[1]
        kept = [target * width // layer.live.size for layer, target in zip(layers, targets, strict=True)]
        return [
            choose_runs(layer, num_kept, width, swap_count(drop_fraction, target))
            for layer, num_kept, target in zip(layers, kept, targets, strict=True)
        ]
    limits = Limits(group_floor=config.min_feature_share)
    return [
        choose(_ripe_first([layer]), target, _swaps([layer], drop_fraction, target), limits)[0]
        for layer, target in zip(layers, targets, strict=True)
    ]


def first_masks(
    config: SparsityConfig, grids: Sequence[tuple[int, ...]], targets: Sequence[int], generator: np.random.Generator
) -> list[Mask]:
    """Return the masks at step 0: all atoms before a ramp, else a uniform draw of exactly the targets with one atom in each block
    (or N in each run)."""
    everything = [np.ones(grid, np.bool_) for grid in grids]
    if config.ramp is not None:
        return everything
    layers = [ScoredLayer(mask, generator.random(mask.shape), np.zeros(mask.shape)) for mask in everything]
    own = config.model_copy(update={"scope": "layer"}) if config.scope == "model" else config
    return choose_by(own, layers, targets, 0.0)


def swap_count(drop_fraction: float, target: int) -> int:
    """Return the number of `target` atoms that a swap may exchange, rounded up as in DSL, so that small layers swap too."""
    return math.ceil(drop_fraction * target)


def _swaps(layers: Sequence[ScoredLayer], drop_fraction: float, target: int) -> int:
    """Return the number of atoms that a swap may exchange: no more than can grow."""
    growing = sum(layer.live.size if layer.ripe is None else int(np.count_nonzero(layer.ripe & ~layer.live)) for layer in layers)
    return min(swap_count(drop_fraction, target), growing)


def _ripe_first(layers: Sequence[ScoredLayer]) -> list[ScoredLayer]:
    """Return the layers with grow scores of 0 for atoms that are not ripe: they grow to a floor only."""
    return [layer if layer.ripe is None else replace(layer, grow=np.where(layer.ripe, layer.grow, 0)) for layer in layers]
