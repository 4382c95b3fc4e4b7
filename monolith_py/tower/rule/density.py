"""Density and number of live atoms of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monolith_py.config.sparsity import LayerDensity, SparsityConfig
from monolith_py.tower.layers.atoms import grid_of


def layer_densities(shapes: Sequence[tuple[int, int]], density: float, layer_density: LayerDensity) -> list[float]:
    """Return the density of each layer (O, I), for a share `density` of live weights over all layers.

    erk: Erdos-Renyi-Kernel, Evci et al. 2020, section 3 (1): proportional to (O + I) / (O * I). Layers above 1 are dense, and the others
    share the remaining weights.
    """
    if layer_density == "uniform":
        return [density] * len(shapes)
    sizes = [outputs * inputs for outputs, inputs in shapes]
    raw = [(outputs + inputs) / (outputs * inputs) for outputs, inputs in shapes]
    dense: set[int] = set()
    while len(dense) < len(shapes):
        others = [index for index in range(len(shapes)) if index not in dense]
        left = density * sum(sizes) - sum(sizes[index] for index in dense)
        scale = left / sum(raw[index] * sizes[index] for index in others)
        over = {index for index in others if raw[index] * scale >= 1}
        if not over:
            return [1.0 if index in dense else raw[index] * scale for index in range(len(shapes))]
        dense |= over
    return [1.0] * len(shapes)


def atom_targets(config: SparsityConfig, shapes: Sequence[tuple[int, int]], density: float) -> list[int]:
    """Return the number of live atoms of each layer (O, I) at `density`, which during a ramp is above the config's.

    It is the nearest integer, but at least one atom per block, so that no output is cut off. Under a scope "N:M" every run has the same
    number, at least density * M.

    Raises:
        ValueError: the inputs of a layer are not a multiple of M.
    """
    grids = [grid_of(shape, config.atom) for shape in shapes]
    if config.run:
        return [_run_target(grid, config.run[1], density) for grid in grids]
    return [
        max(round(share * math.prod(grid)), grid[0] if len(grid) == 2 else 1)
        for grid, share in zip(grids, layer_densities(shapes, density, config.layer_density), strict=True)
    ]


def _run_target(grid: tuple[int, ...], width: int, density: float) -> int:
    if grid[-1] % width:
        raise ValueError(f"inputs of a layer must be a multiple of {width} for its runs, got {grid[-1]}")
    # N / M * M may exceed N by rounding.
    return math.ceil(density * width - 1e-9) * (math.prod(grid) // width)
