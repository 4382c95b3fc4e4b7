"""Births, drops and health of the swaps, against counts written out from the masks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from monolith_py.tower.layers.atoms import Mask
from monolith_py.tower.rule.history import SwapHistory


def walk(seed: int, num_swaps: int) -> list[list[Mask]]:
    """Masks of two layers before and after each swap; about a quarter of the atoms change each time."""
    generator = np.random.default_rng(seed)
    masks = [[generator.random((2, 6)) < 0.5, generator.random(5) < 0.5]]
    for _ in range(num_swaps):
        masks.append([mask ^ (generator.random(mask.shape) < 0.25) for mask in masks[-1]])
    return masks


def joined(masks: list[Mask]) -> Mask:
    return np.concatenate([mask.ravel() for mask in masks])


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(1, 4), st.integers(0, 3))
def test_it_counts_what_the_masks_tell(seed: int, num_swaps: int, window: int, grace: int) -> None:
    masks = walk(seed, num_swaps)
    history = SwapHistory(masks[0], window)
    for after in masks[1:]:
        history.record(after)
    flat = [joined(one) for one in masks]
    grown = [np.zeros_like(flat[0])] + [after & ~before for before, after in pairwise(flat)]
    dropped = [np.zeros_like(flat[0])] + [before & ~after for before, after in pairwise(flat)]
    last = range(max(1, num_swaps - window + 1), num_swaps + 1)
    regretted = [
        sum(any(dropped[earlier][atom] for earlier in range(max(1, swap - window), swap)) for atom in np.flatnonzero(grown[swap]))
        for swap in last
    ]
    total = sum(int(grown[swap].sum()) for swap in last)
    assert history.regret_rate == (sum(regretted) / total if total else pytest.approx(math.nan, nan_ok=True))
    born = grown[num_swaps - 2] if num_swaps > 2 else grown[0]
    alive = sum(all(flat[swap][atom] for swap in range(num_swaps - 2, num_swaps + 1)) for atom in np.flatnonzero(born))
    assert history.newborn_survival == (alive / born.sum() if born.any() else pytest.approx(math.nan, nan_ok=True))
    assert (history.num_swaps, history.live_atoms) == (num_swaps, [int(mask.sum()) for mask in masks[-1]])
    assert history.density == flat[-1].sum() / 17
    young = np.zeros_like(flat[0])
    for swap in range(max(1, num_swaps - grace + 1), num_swaps + 1):
        young |= grown[swap]
    assert np.array_equal(joined(history.newborns(grace)), young & flat[-1])


@pytest.mark.parametrize("cut", [0, 1, 5, 9])
def test_it_goes_on_bit_equal_from_its_state(cut: int) -> None:
    masks = walk(7, 12)
    whole, first, second = (SwapHistory(masks[0], 4) for _ in range(3))
    for after in masks[1:]:
        whole.record(after)
    for after in masks[1 : cut + 1]:
        first.record(after)
    second.restore(first.state())
    for after in masks[cut + 1 :]:
        second.record(after)
    expected, got = whole.state(), second.state()
    assert expected.keys() == got.keys()
    assert all(expected[name].dtype == got[name].dtype and np.array_equal(expected[name], got[name]) for name in expected)
    assert (second.regret_rate, second.newborn_survival) == (whole.regret_rate, whole.newborn_survival)


def test_it_keeps_no_hold_of_the_masks_it_is_given_and_its_state_none_of_it() -> None:
    masks = walk(1, 1)
    history = SwapHistory(masks[0])
    history.record(masks[1])
    state = history.state()
    kept = {name: values.copy() for name, values in state.items()}
    masks[1][0][:] = False
    for values in state.values():
        values[...] = 0
    assert all(np.array_equal(values, kept[name]) for name, values in history.state().items())


def test_wrong_masks_and_states_are_told() -> None:
    masks = walk(1, 5)
    history = SwapHistory(masks[0], 5)
    with pytest.raises(ValueError, match="masks must have the shapes"):
        history.record(masks[1][:1])
    with pytest.raises(ValueError, match="window must be >= 1, got 0"):
        SwapHistory(masks[0], 0)
    for after in masks[1:]:
        history.record(after)
    state: dict[str, NDArray[Any]] = history.state()
    with pytest.raises(ValueError, match="state must be of a window of 2 swaps, got 5"):
        SwapHistory(masks[0], 2).restore(state)
    with pytest.raises(ValueError, match="state must have the layers"):
        SwapHistory(masks[0][:1], 5).restore(state)
    with pytest.raises(ValueError, match="state must have the layers"):
        history.restore({**state, "born.0": state["born.0"].astype(np.int64)})
