"""Start values of each kind follow their definition: a pure function of (seed, fid) on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.table import EmbeddingTable, Sgd, Slice

KINDS = ["zeros", "constant", "uniform", "normal", "xavier"]
DRAWN = ["uniform", "normal", "xavier"]
NUM_FIDS = 20_000


def start_weights(kind: Any, scale: float = 1.0, dim: int = 16, seed: int = 1, fids: np.ndarray | None = None) -> np.ndarray:
    table = EmbeddingTable(dim, Sgd(), initializer=kind, init_scale=scale, seed=seed)
    return table.gather(table.find_or_insert(np.arange(NUM_FIDS) if fids is None else fids, 0))


@pytest.mark.parametrize("scale", [0.0, 0.25, 3.0])
def test_zeros_and_constants_are_what_they_say(scale: float) -> None:
    assert not start_weights("zeros", scale).any()
    assert (start_weights("constant", scale) == np.float32(scale)).all()


@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_normal_values_have_the_mean_deviation_and_tails_of_a_normal(scale: float) -> None:
    z = start_weights("normal", scale).astype(np.float64).ravel() / scale
    num = z.size
    # Of a standard normal, within five standard deviations of each estimate.
    assert abs(z.mean()) < 5 / np.sqrt(num)
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / num)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / num)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / num)
    for bound, share in [(1, 0.31731), (2, 0.0455), (3, 0.0027), (4, 6.334e-5)]:
        for tail in (z > bound, z < -bound):
            assert abs(tail.sum() - num * share / 2) < 5 * np.sqrt(num * share / 2), bound
    assert np.abs(z).max() < 7


@pytest.mark.parametrize("dim", [4, 16, 60])
@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_xavier_values_are_uniform_within_their_bounds(dim: int, gain: float) -> None:
    """Glorot and Bengio 2010, equation 16, of one input and `dim` outputs."""
    bound = gain * np.sqrt(6 / (1 + dim))
    x = start_weights("xavier", gain, dim).astype(np.float64).ravel() / bound
    assert x.min() >= -1 - 1e-6 and x.max() < 1 + 1e-6
    assert x.min() < -0.999 and x.max() > 0.999
    counts, _ = np.histogram(x, bins=32, range=(-1.001, 1.001))
    assert (np.abs(counts - x.size / 32) < 6 * np.sqrt(x.size / 32) + 0.002 * x.size / 2).all()
    assert abs((x**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / x.size)


@pytest.mark.parametrize("dim", [1, 3, 7])
def test_slices_of_an_odd_dim_are_drawn_to_their_last_weight(dim: int) -> None:
    parts = [Slice("w", dim, Sgd(), "uniform", 1.0), Slice("rest", 8 - dim, Sgd(), "zeros")]
    table = EmbeddingTable(8, slices=parts)
    weights = table.gather(table.find_or_insert(np.arange(NUM_FIDS), 0))
    assert not weights[:, dim:].any()
    assert (np.abs((weights[:, :dim].astype(np.float64) ** 2).mean(axis=0) - 1 / 3) < 5 * np.sqrt(4 / 45 / NUM_FIDS)).all()
    assert np.abs(np.corrcoef(weights[:, :dim], rowvar=False) - np.eye(dim)).max() < 5.5 / np.sqrt(NUM_FIDS)


@pytest.mark.parametrize("kind", DRAWN)
def test_weights_of_a_row_and_rows_side_by_side_are_independent(kind: str) -> None:
    weights = start_weights(kind)
    assert np.abs(np.corrcoef(weights, rowvar=False) - np.eye(16)).max() < 5.5 / np.sqrt(NUM_FIDS)
    assert abs(np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]) < 5 / np.sqrt(weights.size)
    other = start_weights(kind, seed=2)
    assert abs(np.corrcoef(weights.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(weights.size), "another seed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_starts_alike_in_any_order_and_any_company(kind: str) -> None:
    fids = np.random.default_rng(5).integers(-(2**63), 2**63 - 1, 500)
    weights = start_weights(kind, fids=fids)
    order = np.random.default_rng(6).permutation(500)
    np.testing.assert_array_equal(start_weights(kind, fids=fids[order]), weights[order])
    np.testing.assert_array_equal(start_weights(kind, fids=fids[:1]), weights[:1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [4, 16, 20])
def test_every_level_of_the_kernels_starts_rows_alike(kind: str, dim: int) -> None:
    weights = {}
    for name in _core.simd_levels():
        _core.set_simd_level(name)
        weights[name] = start_weights(kind, 0.3, dim)
    for name in _core.simd_levels():
        np.testing.assert_array_equal(weights[name], weights[_core.simd_levels()[0]], name)
