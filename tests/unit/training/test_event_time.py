"""Event time of the trainer follows the examples, and no single one of them."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.training.event_time import advanced_ms

NOW_MS, HOUR_MS = 1_700_000_000_000, 3_600_000


@pytest.mark.parametrize("num_examples", [3, 32, 256])
def test_one_example_ahead_does_not_move_it(num_examples: int) -> None:
    times_ms = np.full(num_examples, NOW_MS)
    times_ms[0] += 8 * HOUR_MS
    assert advanced_ms(NOW_MS - 1000, times_ms) == NOW_MS


def test_an_example_ahead_that_is_a_batch_of_its_own_moves_it_by_an_hour() -> None:
    assert advanced_ms(NOW_MS, np.array([NOW_MS + 8 * HOUR_MS])) == NOW_MS + HOUR_MS


def test_it_never_goes_back() -> None:
    assert advanced_ms(NOW_MS, np.array([2, 3, NOW_MS - 1])) == NOW_MS


def test_the_first_batch_sets_it() -> None:
    assert advanced_ms(0, np.array([NOW_MS + 5, NOW_MS])) == NOW_MS


def test_it_follows_a_stream_that_was_silent_for_hours() -> None:
    watermark_ms, later_ms = NOW_MS, NOW_MS + 24 * HOUR_MS
    for _ in range(5):
        watermark_ms = advanced_ms(watermark_ms, np.full(32, later_ms))
    assert watermark_ms == later_ms
