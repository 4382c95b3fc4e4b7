"""Gain over another arm and its interval."""

from __future__ import annotations

import numpy as np

from monolith_py.training import auc
from monolith_streaming.backtest.figures import gain_of


def drawn(num_users: int, each: int, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, scores that know them a little, scores that do not, and users; labels of one user agree."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(generator.integers(0, 2, num_users), each).astype(np.float32)
    noise = np.repeat(generator.normal(size=num_users), each)
    users = np.repeat(np.arange(num_users), each)
    return (
        labels,
        (noise + strength * labels).astype(np.float32),
        np.repeat(generator.normal(size=num_users), each).astype(np.float32),
        users,
    )


def test_the_gain_is_the_difference_of_the_aucs_within_its_interval() -> None:
    labels, scores, base, users = drawn(400, 3, 1.0, 0)
    gain = gain_of(labels, scores, base, users)
    assert gain.auc == auc(labels, scores) - auc(labels, base)
    assert 0 < gain.low < gain.auc < gain.high
    assert gain == gain_of(labels, scores, base, users)


def test_candidates_of_one_user_do_not_narrow_the_interval() -> None:
    """Ten copies of each candidate of a user carry no more information than one."""
    widths = {}
    for each in (1, 10):
        gain = gain_of(*drawn(300, each, 0.5, 1))
        widths[each] = gain.high - gain.low
    assert np.isclose(widths[1], widths[10], rtol=1e-6)


def test_the_interval_covers_the_truth() -> None:
    """Both scores know nothing: about 95 of 100 intervals hold 0."""
    covered = 0
    for seed in range(60):
        gain = gain_of(*drawn(150, 2, 0.0, seed))
        covered += gain.low <= 0 <= gain.high
    assert 52 <= covered <= 60
