"""Densities and numbers of live atoms of the layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.rule.density import atom_targets, layer_densities

SHAPE_LISTS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=5)


@given(SHAPE_LISTS, st.floats(0.01, 1))
def test_erk_follows_its_law_where_a_layer_is_not_dense_and_meets_the_budget(shapes: list[tuple[int, int]], density: float) -> None:
    sizes = [outputs * inputs for outputs, inputs in shapes]
    shares = layer_densities(shapes, density, "erk")
    assert sum(share * size for share, size in zip(shares, sizes, strict=True)) == pytest.approx(density * sum(sizes))
    laws = [(o + i) / (o * i) for o, i in shapes]
    scales = [share / law for share, law in zip(shares, laws, strict=True) if share < 1]
    assert all(scale == pytest.approx(scales[0]) for scale in scales)
    # A dense layer is one that the law would make so.
    assert all(law * scales[0] >= 1 - 1e-9 for share, law in zip(shares, laws, strict=True) if share == 1 and scales)
    assert all(0 < share <= 1 for share in shares)


def test_erk_by_hand() -> None:
    """(512, 256): law 768 / 131072, (64, 32): 96 / 2048, (1, 32): dense. Scale = (0.1 * 133152 - 32) / (768 + 96)."""
    scale = (0.1 * (131072 + 2048 + 32) - 32) / (768 + 96)
    assert layer_densities([(512, 256), (64, 32), (1, 32)], 0.1, "erk") == pytest.approx([scale * 768 / 131072, scale * 96 / 2048, 1.0])


def test_targets_are_the_nearest_number_of_atoms_but_one_for_each_block() -> None:
    config = SparsityConfig(preset="static", density=0.2)
    assert atom_targets(config, [(64, 32), (40, 7), (16, 3)], 0.2) == [26, 4, 1]  # of 128, 21 and 3 atoms: 25.6, 4.2, 0.6
    assert atom_targets(config, [(64, 32)], 0.001) == [4]
    assert atom_targets(SparsityConfig(preset="static", atom="neuron"), [(64, 32), (3, 9)], 0.1) == [6, 1]


@pytest.mark.parametrize("pool", ["layer", "2:4", "1:5"])
def test_targets_fall_with_the_density_to_that_of_the_config(pool: str) -> None:
    config = SparsityConfig(preset="gmp", scope=pool)
    shapes = [(64, 40), (20, 80)]
    targets = [atom_targets(config, shapes, config.density + (1 - config.density) * share) for share in (1.0, 0.6, 0.3, 0.1, 0.0)]
    atoms = [4 * 40, 2 * 80]
    assert targets[0] == atoms
    assert targets[-1] == [round(config.density * size) for size in atoms]
    assert all(before >= after for one, two in pairwise(targets) for before, after in zip(one, two, strict=True))


@given(st.integers(1, 64), st.integers(1, 64))
def test_runs_keep_exactly_their_number(kept: int, more: int) -> None:
    width = kept + more
    config = SparsityConfig(preset="nm", scope=f"{kept}:{width}")
    assert atom_targets(config, [(3, 2 * width)], config.density) == [3 * 2 * kept]


def test_inputs_that_are_no_whole_runs_are_told() -> None:
    with pytest.raises(ValueError, match="inputs of a layer must be a multiple of 4 for its runs, got 30"):
        atom_targets(SparsityConfig(preset="nm"), [(16, 32), (16, 30)], 0.5)
