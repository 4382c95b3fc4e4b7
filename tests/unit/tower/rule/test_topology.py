"""The drop-and-grow rule against a plain restatement, and its invariants under any scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.tower.layers.atoms import Mask
from monolith_py.tower.rule.topology import Limits, ScoredLayer, choose


@st.composite
def layers(draw: st.DrawFn, protect: bool = False) -> ScoredLayer:
    """A layer of up to 4 x 8 atoms, some live in each block. Whole scores, so that many are equal."""
    blocks, inputs = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    live = generator.random((blocks, inputs)) < draw(st.sampled_from([0.2, 0.5, 1.0]))
    live[np.arange(blocks), generator.integers(0, inputs, blocks)] = True
    highest = draw(st.sampled_from([0, 2, 1000]))
    keep, grow = (generator.integers(0, highest + 1, live.shape).astype(np.float32) for _ in range(2))
    return ScoredLayer(live, keep, grow, live & (generator.random(live.shape) < 0.3) if protect else None)


@st.composite
def pools(draw: st.DrawFn, protect: bool = False) -> tuple[list[ScoredLayer], int, int]:
    """Up to three layers, a target that can be met, and a number of swaps."""
    pool = draw(st.lists(layers(protect), min_size=1, max_size=3))
    blocks, atoms = sum(len(layer.live) for layer in pool), sum(layer.live.size for layer in pool)
    live = sum(int(layer.live.sum()) for layer in pool)
    target = draw(st.one_of(st.just(live), st.integers(blocks, live), st.integers(blocks, atoms)))
    return pool, target, draw(st.integers(0, target))


def union(masks: Sequence[Mask]) -> Mask:
    return np.concatenate([mask.ravel() for mask in masks])


def restated(pool: Sequence[ScoredLayer], target: int, num_swap: int) -> list[bool]:
    """The rule without limits, atom by atom: a list of atoms in the order in which they are taken."""
    atoms = []
    for layer in pool:
        keep_mean = layer.keep[layer.live].mean(dtype=np.float64) if len(pool) > 1 else 0.0
        grow_mean = layer.grow.mean(dtype=np.float64) if len(pool) > 1 else 0.0
        for block in range(len(layer.live)):
            protected = layer.protected[block] if layer.protected is not None else np.zeros_like(layer.live[block])
            row = [
                {
                    "live": bool(layer.live[block, i]),
                    "keep": float(layer.keep[block, i]) / (keep_mean or 1.0),
                    "grow": float(layer.grow[block, i]) / (grow_mean or 1.0),
                    "tier": 1 if protected[i] else 2,
                }
                for i in range(layer.live.shape[1])
            ]
            min((atom for atom in row if atom["live"]), key=lambda atom: (atom["tier"], -atom["keep"]))["tier"] = 0
            atoms += row
    by_keep = sorted((atom for atom in atoms if atom["live"]), key=lambda atom: (atom["tier"], -atom["keep"]))
    firm = sum(atom["tier"] < 2 for atom in by_keep)
    kept = by_keep[: min(target, max(target - num_swap, firm))]
    others = [atom for atom in atoms if not any(atom is one for one in kept)]
    new = sorted(others, key=lambda atom: -atom["grow"])[: target - len(kept)]
    chosen = {id(atom) for atom in [*kept, *new]}
    return [id(atom) in chosen for atom in atoms]


@given(pools() | pools(protect=True))
def test_the_masks_are_those_of_the_restated_rule(case: tuple[list[ScoredLayer], int, int]) -> None:
    assert union(choose(*case)).tolist() == restated(*case)


@given(pools(protect=True), st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.sampled_from([0.1, 0.5, 1.0]))
def test_the_budget_is_exact_no_block_is_empty_and_the_same_call_gives_the_same(
    case: tuple[list[ScoredLayer], int, int], floor: float, cap: float
) -> None:
    pool, target, num_swap = case
    after = choose(pool, target, num_swap, Limits(floor, cap))
    assert union(after).sum() == target
    assert all(mask.shape == layer.live.shape and mask.any(axis=1).all() for mask, layer in zip(after, pool, strict=True))
    assert all(np.array_equal(one, two) for one, two in zip(after, choose(pool, target, num_swap, Limits(floor, cap)), strict=True))


@given(pools(protect=True), st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_no_more_atoms_move_than_the_swap_and_the_ramp_allow(case: tuple[list[ScoredLayer], int, int], floor: float) -> None:
    pool, target, num_swap = case
    before, after = union([layer.live for layer in pool]), union(choose(pool, target, num_swap, Limits(floor)))
    assert (before & ~after).sum() <= num_swap + max(0, before.sum() - target)
    assert (after & ~before).sum() <= num_swap + max(0, target - before.sum())


@given(pools(protect=True), st.sampled_from([0.2, 0.6, 1.0]))
def test_a_layer_at_its_floor_stays_there_and_one_below_it_does_not_fall(case: tuple[list[ScoredLayer], int, int], floor: float) -> None:
    pool, target, num_swap = case
    atoms = sum(layer.live.size for layer in pool)
    floors = [int(floor * (target * layer.live.size / atoms)) for layer in pool]
    if sum(max(low, len(layer.live)) for low, layer in zip(floors, pool, strict=True)) > target:
        return
    for low, layer, mask in zip(floors, pool, choose(pool, target, num_swap, Limits(floor)), strict=True):
        assert mask.sum() >= min(low, layer.live.sum())


@given(pools(), st.sampled_from([0.1, 0.5, 0.8]))
def test_no_layer_passes_its_cap(case: tuple[list[ScoredLayer], int, int], cap: float) -> None:
    pool, target, num_swap = case
    atoms = sum(layer.live.size for layer in pool)
    for layer, mask in zip(pool, choose(pool, target, num_swap, Limits(cap=cap)), strict=True):
        size = layer.live.size
        assert mask.sum() <= max(int(cap * size), int(np.ceil(target * size / atoms)), len(layer.live))


@given(pools(protect=True), st.sampled_from([0.0, 0.2, 0.6]))
def test_the_protected_stay_while_the_budget_does_not_shrink(case: tuple[list[ScoredLayer], int, int], floor: float) -> None:
    pool, target, num_swap = case
    if target < sum(layer.live.sum() for layer in pool):
        return
    for layer, mask in zip(pool, choose(pool, target, num_swap, Limits(floor)), strict=True):
        assert layer.protected is not None
        assert mask[layer.protected & layer.live].all()


def test_where_the_protected_exceed_the_budget_the_best_of_them_stay() -> None:
    layer = ScoredLayer(np.ones((1, 4), bool), np.array([[1.0, 9.0, 3.0, 2.0]]), np.zeros((1, 4)), np.array([[True, False, True, True]]))
    assert choose([layer], 2, 0)[0].tolist() == [[False, False, True, True]]


def test_an_atom_just_dropped_comes_back_where_its_grow_score_is_best() -> None:
    live = np.array([[True, True, True, False]])
    layer = ScoredLayer(live, np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 9.0, 1.0]]))
    assert np.array_equal(choose([layer], 3, 1)[0], live)


def test_a_layer_at_its_floor_still_swaps() -> None:
    """Else a layer that never wins against the others would keep its first atoms for ever."""
    rich = ScoredLayer(np.array([[True] * 16 + [False] * 4]), np.full((1, 20), 5.0), np.full((1, 20), 5.0))
    live = np.array([[True] * 4 + [False] * 16])
    grow = np.zeros((1, 20))
    grow[0, 19] = 1.0
    poor = ScoredLayer(live, np.array([[4.0, 3.0, 2.0, 1.0] + [0.0] * 16]), grow)
    masks = choose([rich, poor], 20, 10, Limits(floor=0.4))
    assert masks[1].sum() == 4
    assert masks[1][0, 19]


@pytest.mark.parametrize("num_swap", [0, 10])
def test_a_floor_comes_before_newborns_where_the_budget_shrinks(num_swap: int) -> None:
    full = np.ones((1, 20), bool)
    newborn = ScoredLayer(full, np.full((1, 20), 5.0), np.full((1, 20), 5.0), full)
    live = np.arange(20)[None] < 4
    masks = choose([newborn, ScoredLayer(live, 1.0 * live, 1.0 * live)], 20, num_swap, Limits(floor=0.4))
    assert [mask.sum() for mask in masks] == [16, 4]


def test_a_floor_holds_where_all_its_layer_is_worst() -> None:
    """One live atom far above the mean of its layer leaves the others of the layer below all of the other layer."""
    full = np.ones((1, 10), bool)
    skewed = ScoredLayer(full, np.array([[1000.0] + [1.0] * 9]), np.zeros((1, 10)))
    even = ScoredLayer(full, np.ones((1, 10)), np.zeros((1, 10)))
    assert [mask.sum() for mask in choose([skewed, even], 10, 0, Limits(floor=0.8))] == [4, 6]
    assert [mask.sum() for mask in choose([skewed, even], 10, 0)] == [1, 9]


def test_scores_of_layers_are_compared_by_their_layers_mean() -> None:
    """The second layer's weights are a thousand times the first's; raw scores would drop the first layer's alone."""
    small = ScoredLayer(np.ones((1, 4), bool), np.array([[1.0, 2.0, 3.0, 4.0]]), np.zeros((1, 4)))
    large = ScoredLayer(np.ones((1, 4), bool), np.array([[1000.0, 2000.0, 3000.0, 4000.0]]), np.zeros((1, 4)))
    assert [mask.tolist() for mask in choose([small, large], 4, 0)] == [[[False, False, True, True]]] * 2


def test_neurons_are_one_block() -> None:
    layer = ScoredLayer(np.ones(4, bool), np.array([1.0, 4.0, 2.0, 3.0]), np.zeros(4))
    assert choose([layer], 1, 0)[0].tolist() == [False, True, False, False]


def test_pruning_step_by_step_only_ever_takes_away() -> None:
    generator = np.random.default_rng(3)
    keep = generator.random((4, 16))
    masks = [np.ones((4, 16), bool)]
    for target in (50, 30, 10):
        masks += choose([ScoredLayer(masks[-1], keep, generator.random((4, 16)))], target, 0)
    assert all((after <= before).all() for before, after in pairwise(masks))


LIVE, SCORES = np.ones((2, 3), bool), np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScoredLayer(LIVE, np.ones((3, 2)), SCORES), r"keep must have the shape of live, \(2, 3\), got \(3, 2\)"),
        (lambda: ScoredLayer(LIVE, SCORES, SCORES, LIVE[:1]), r"protected must have the shape of live"),
        (lambda: ScoredLayer(LIVE, SCORES * np.nan, SCORES), "keep scores must be finite, got 6 that are not"),
        (lambda: ScoredLayer(LIVE, SCORES, SCORES * np.inf), "grow scores must be finite, got 6 that are not"),
        (lambda: ScoredLayer(LIVE & False, SCORES, SCORES), "live must have an atom in each block, got 2 blocks without"),
        (lambda: choose([ScoredLayer(LIVE, SCORES, SCORES)], 1, 0), r"target must be in \[2, 6\]"),
        (lambda: choose([ScoredLayer(LIVE, SCORES, SCORES)], 7, 0), r"target must be in \[2, 6\].*got 7"),
        (lambda: choose([ScoredLayer(LIVE, SCORES, SCORES)], 3, -1), "num_swap must be >= 0, got -1"),
    ],
)
def test_wrong_arguments_are_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
