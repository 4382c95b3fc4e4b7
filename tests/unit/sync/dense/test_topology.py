"""Live atoms and swaps against plain sets of (block, column), and the swaps from outside that are refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.errors import WireError
from monolith_py.sync.dense.topology import LiveAtoms, Swap

BLOCKS, COLUMNS = 4, 9
atom_sets = st.sets(st.tuples(st.integers(0, BLOCKS - 1), st.integers(0, COLUMNS - 1)))
gaps = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), max_size=8)


def atoms_of(live: set[tuple[int, int]]) -> LiveAtoms:
    counts = [sum(block == number for block, _ in live) for number in range(BLOCKS)]
    bounds = np.array([0, *np.cumsum(counts)], np.int32)
    return LiveAtoms.of(bounds, np.array([column for _, column in sorted(live)], np.int32))


def set_of(atoms: LiveAtoms) -> set[tuple[int, int]]:
    return {(block, int(column)) for block in range(BLOCKS) for column in atoms.columns[atoms.bounds[block] : atoms.bounds[block + 1]]}


def make_swap(**changes: object) -> Swap:
    defaults = {"topology_version": 1, "removed": [], "num_columns": COLUMNS, "added": []} | changes
    return Swap(**{name: np.array(value, np.uint32) if isinstance(value, list) else value for name, value in defaults.items()})


@given(atom_sets, atom_sets)
def test_a_swap_leads_from_one_set_of_atoms_to_the_other(old, new):
    swap = Swap.between(atoms_of(old), atoms_of(new), topology_version=7)
    after = atoms_of(old).after(swap)
    assert set_of(after) == new
    assert (after.bounds.dtype, after.columns.dtype, swap.topology_version) == (np.int32, np.int32, 7)
    assert (len(swap.removed), len(swap.added)) == (len(old - new), len(new - old))


def test_a_gap_is_the_number_of_keys_in_between():
    old, new = {(0, 0), (0, 3), (1, 1), (2, 4)}, {(0, 3), (0, 4), (1, 1), (3, 0)}
    swap = Swap.between(atoms_of(old), atoms_of(new), topology_version=1)
    assert (swap.num_columns, swap.removed.tolist(), swap.added.tolist()) == (5, [0, 2], [4, 10])


@given(atom_sets, gaps, gaps, st.integers(0, 2**32 - 1) | st.integers(0, 20))
def test_any_swap_gives_a_set_of_atoms_or_a_wire_error(live, removed, added, num_columns):
    with contextlib.suppress(WireError):
        after = atoms_of(live).after(make_swap(removed=removed, added=added, num_columns=num_columns))
        LiveAtoms.of(after.bounds, after.columns)  # would raise
        assert after.num_atoms == len(live) - len(removed) + len(added)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"removed": [1, 1]}, r"swap.removed must name atoms in \[0, 3\), got 3"),
        ({"removed": [2**32 - 1] * 3}, "swap.removed must name atoms in"),
        ({"added": [0, 35]}, r"swap.added must name keys in \[0, 36\), got 36"),
        ({"added": [2**32 - 1] * 3}, "swap.added must name keys in"),
        ({"added": [4]}, "swap.added must name atoms that do not live, got key 4"),
        ({"num_columns": 4}, r"swap.num_columns must be in \[5, 2147483648\], got 4"),
        ({"num_columns": 2**31 + 1}, "swap.num_columns must be in"),
    ],
)
def test_a_swap_that_does_not_fit_is_refused_by_name(changes, rule):
    with pytest.raises(WireError, match=rule):
        atoms_of({(0, 1), (0, 4), (2, 0)}).after(make_swap(**changes))


def test_an_atom_may_be_removed_and_come_back_in_one_swap():
    live = {(0, 1), (0, 4)}
    assert set_of(atoms_of(live).after(make_swap(removed=[0], added=[1]))) == live


@pytest.mark.parametrize(
    ("bounds", "columns", "rule"),
    [
        ([], [], r"bounds and columns must be \(blocks \+ 1,\) and \(k,\), got \(0,\) and \(0,\)"),
        ([1, 2], [0, 1], "bounds must ascend from 0 to 2 columns, got 1 to 2"),
        ([0, 3], [0, 1], "bounds must ascend from 0 to 2 columns, got 0 to 3"),
        ([0, 2, 1, 2], [0, 1], "bounds must ascend"),
        ([0, 1], [-1], "columns must be >= 0, got -1"),
        ([0, 2], [1, 1], "columns must ascend within a block"),
        ([0, 1, 3], [5, 4, 3], "columns must ascend within a block"),
    ],
)
def test_bounds_and_columns_out_of_order_are_refused(bounds, columns, rule):
    with pytest.raises(ValueError, match=rule):
        LiveAtoms.of(np.array(bounds, np.int32), np.array(columns, np.int32))
