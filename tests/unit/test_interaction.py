"""How rows meet, against sums over pairs written out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from monolith_py.interaction import factorization, first_order, pairwise_dots

SHAPES = [(1, 1, 4), (3, 2, 4), (5, 7, 16)]


def random_rows(shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_order_term_sums_component_0(shape: tuple[int, int, int]) -> None:
    rows = random_rows(shape)
    np.testing.assert_allclose(first_order(rows), [sum(row[0] for row in one) for one in rows.numpy()])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_factorization_machine_sums_the_dots_of_all_pairs_without_component_0(shape: tuple[int, int, int]) -> None:
    rows = random_rows(shape)
    expected = [sum(float(a[1:] @ b[1:]) for a, b in combinations(one, 2)) for one in rows.numpy()]
    np.testing.assert_allclose(factorization(rows), expected, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_pairwise_dots_are_those_of_the_pairs_in_their_order(shape: tuple[int, int, int]) -> None:
    rows = random_rows(shape)
    pairs = list(reversed(list(combinations(range(shape[1]), 2))))
    got = pairwise_dots(rows, torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T)
    assert got.shape == (shape[0], len(pairs))
    np.testing.assert_allclose(got, [[one[i] @ one[j] for i, j in pairs] for one in rows.numpy()])


def test_a_zero_row_of_a_feature_without_fids_changes_no_other_pair() -> None:
    rows = random_rows((2, 3, 8))
    beside = torch.cat((rows, torch.zeros(2, 1, 8, dtype=rows.dtype)), dim=1)
    torch.testing.assert_close(factorization(beside), factorization(rows))
    torch.testing.assert_close(first_order(beside), first_order(rows))
