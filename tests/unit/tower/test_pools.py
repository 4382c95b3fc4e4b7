"""N of every M inputs, and the rule under the scopes, targets and first masks of the settings."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config.sparsity import PRESETS, Atom, Preset, SparsityConfig
from monolith_py.tower.layers.atoms import grid_of
from monolith_py.tower.rule.density import atom_targets
from monolith_py.tower.rule.masks import choose_by, first_masks
from monolith_py.tower.rule.schedule import density_at
from monolith_py.tower.rule.topology import Limits, ScoredLayer, choose, choose_runs

SHAPES = [(64, 32), (40, 64), (17, 40)]


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 30), st.booleans())
def test_each_run_keeps_its_number_and_the_worst_of_all_runs_go(seed: int, num_kept: int, num_swap: int, dense: bool) -> None:
    generator = np.random.default_rng(seed)
    live = np.ones((3, 20), bool) if dense else np.tile(np.arange(4) < num_kept, (3, 5))
    keep, grow = generator.random((2, 3, 20))
    protected = live & (generator.random(live.shape) < 0.2) & (np.arange(20) % 4 == 0)
    after = choose_runs(ScoredLayer(live, keep, grow, protected), num_kept, 4, num_swap)
    assert (after.reshape(-1, 4).sum(axis=1) == num_kept).all()
    assert after[protected].all()
    if not dense:
        assert (live & ~after).sum() <= num_swap
        exchanged = [int(place) for place in np.flatnonzero(live & ~after)]
        free = sorted(keep.ravel()[np.flatnonzero(live & ~protected)])
        assert all(keep.ravel()[place] in free[:num_swap] for place in exchanged)
    if num_swap == 0 and dense and not protected.any():
        best = np.sort(keep.reshape(-1, 4), axis=1)[:, -num_kept:]
        assert np.array_equal(np.sort(np.where(after, keep, -1).reshape(-1, 4), axis=1)[:, -num_kept:], best)


def test_a_run_grows_its_own_best() -> None:
    live = np.array([[True, True, False, False, True, True, False, False]])
    layer = ScoredLayer(live, np.array([[5.0, 1, 0, 0, 5, 6, 0, 0]]), np.array([[0.0, 0, 1, 2, 0, 0, 8, 9]]))
    assert choose_runs(layer, 2, 4, 1).tolist() == [[True, False, False, True, True, True, False, False]]


@pytest.mark.parametrize(("num_kept", "width", "num_swap"), [(0, 4, 0), (5, 4, 0), (2, 4, -1), (2, 3, 0)])
def test_runs_that_cannot_be_are_refused(num_kept: int, width: int, num_swap: int) -> None:
    layer = ScoredLayer(np.ones((1, 8), bool), np.ones((1, 8)), np.ones((1, 8)))
    with pytest.raises(ValueError, match="must be"):
        choose_runs(layer, num_kept, width, num_swap)


@pytest.mark.parametrize(
    ("preset", "atom"),
    [(preset, atom) for preset in PRESETS for atom in get_args(Atom) if preset != "dense" and (preset != "nm" or atom != "neuron")],
)
def test_every_preset_meets_its_targets_from_the_first_masks_to_the_end_of_the_ramp(preset: Preset, atom: Atom) -> None:
    random = {"grow_criterion": "random"} if atom == "neuron" and preset in ("rigl", "dsl", "dsl_online") else {}
    config = SparsityConfig(preset=preset, atom=atom, **random)
    generator = np.random.default_rng(1)
    grids = [grid_of(shape, config.atom) for shape in SHAPES]
    masks = first_masks(config, grids, atom_targets(config, SHAPES, density_at(config, 0)), generator)
    for step in (0, 300, 2000, 4000, 5000, 6000):
        targets = atom_targets(config, SHAPES, density_at(config, step))
        layers = [ScoredLayer(mask, *generator.random((2, *mask.shape))) for mask in masks]
        masks = choose_by(config, layers, targets, 0.1)
        assert [int(mask.sum()) for mask in masks] == targets
    assert sum(targets) == pytest.approx(config.density * sum(map(math.prod, grids)), rel=0.15)


def test_a_pool_of_the_model_moves_atoms_between_layers_within_the_limits() -> None:
    config = SparsityConfig(preset="dsl", atom="16x1", scope="model", density=0.2, min_layer_share=0.5)
    generator = np.random.default_rng(2)
    targets = atom_targets(config, SHAPES, 0.2)
    masks = first_masks(config, [grid_of(shape, config.atom) for shape in SHAPES], targets, generator)
    assert [int(mask.sum()) for mask in masks] == targets
    # Skewed scores: the first layer's dead have all a high one, of the last but one atom.
    layers = [
        ScoredLayer(mask, generator.random(mask.shape), np.ones(mask.shape) if index == 0 else generator.random(mask.shape) ** 8)
        for index, mask in enumerate(masks)
    ]
    after = choose_by(config, layers, targets, 0.3)
    assert sum(int(mask.sum()) for mask in after) == sum(targets)
    assert [int(mask.sum()) for mask in after] != targets
    num_swap = math.ceil(0.3 * sum(targets))
    expected = choose(layers, sum(targets), num_swap, Limits(0.5, 1.0))
    assert all(np.array_equal(one, two) for one, two in zip(after, expected, strict=True))


def test_first_masks_are_a_draw_of_the_generator() -> None:
    config = SparsityConfig(preset="static", density=0.25, atom="1x1")
    draws = [first_masks(config, [(50, 40)], [500], np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    # A uniform draw spreads over the inputs: 12.5 live of 50 each, deviation about 3.
    assert draws[0].sum(axis=0).min() > 2 and draws[0].sum(axis=0).max() < 26
