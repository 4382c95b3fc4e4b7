"""The grid of atoms, sums over atoms, and masks as CSR and back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monolith_py.tower.layers.atoms import Mask, csr_of, grid_of, height_of, mask_of


@given(arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 9)) | st.tuples(st.integers(1, 9))))
def test_csr_lists_the_live_of_each_block_and_gives_back_the_mask(mask: Mask) -> None:
    bounds, columns = csr_of(mask)
    assert bounds.dtype == columns.dtype == np.int32
    assert [columns[low:high].tolist() for low, high in pairwise(bounds)] == [np.flatnonzero(row).tolist() for row in np.atleast_2d(mask)]
    assert np.array_equal(mask_of(bounds, columns, mask.shape), mask)


@pytest.mark.parametrize(
    ("bounds", "columns"),
    [
        ([0, 1], [0]),
        ([0, 1, 1], [0, 1]),
        ([1, 1, 2], [0, 1]),
        ([0, 2, 1], [0]),
        ([0, 2, 2], [1, 0]),
        ([0, 2, 2], [1, 1]),
        ([0, 1, 2], [3, 0]),
        ([0, 1, 2], [0, -1]),
    ],
)
def test_csr_of_another_grid_is_refused(bounds: list[int], columns: list[int]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        mask_of(np.array(bounds, np.int32), np.array(columns, np.int32), (2, 3))


@pytest.mark.parametrize(("outputs", "blocks"), [(1, 1), (16, 1), (17, 2), (33, 3)])
def test_the_last_block_may_be_smaller(outputs: int, blocks: int) -> None:
    assert grid_of((outputs, 5), "16x1") == (blocks, 5)
    assert grid_of((outputs, 5), "1x1") == (outputs, 5)
    assert grid_of((outputs, 5), "neuron") == (outputs,)


def test_heights() -> None:
    assert (height_of("16x1"), height_of("1x1")) == (16, 1)
    with pytest.raises(ValueError, match="atom must be '16x1' or '1x1' to have a height, got 'neuron'"):
        height_of("neuron")
