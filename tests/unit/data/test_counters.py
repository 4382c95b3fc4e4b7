"""The stored form of counters; tests/unit/streaming/joiner/test_live_counters.py tests their use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config import CounterConfig
from monolith_py.data.counters import LiveCounters
from monolith_py.errors import WireError

COUNT = st.integers(-(2**63), 2**63 - 1)
COUNTS = st.lists(st.tuples(COUNT, COUNT), min_size=1, max_size=4)


def counters(*tasks: str, scope: str = "shop:") -> LiveCounters:
    return LiveCounters(CounterConfig(prior_weight=20.0, prior_rate=0.3), scope, tasks)


def test_the_key_and_the_bytes_of_a_counter_are_pinned() -> None:
    assert counters("click", scope="shop:eu.").key("video_id", -7) == "counter:shop:eu.:video_id:-7"
    assert counters("click").encode(np.array([[258, 1]])).hex() == "0cfe286a73616f2c02010000000000000100000000000000"


@given(COUNTS)
def test_counts_are_decoded_unchanged(counts: list[tuple[int, int]]) -> None:
    some = counters(*(f"task_{index}" for index in range(len(counts))))
    assert some.decode(some.encode(np.array(counts))).tolist() == [list(pair) for pair in counts]


@given(st.binary(max_size=60))
def test_bytes_of_another_length_are_refused(value: bytes) -> None:
    if len(value) % 24 == 0:
        assert counters("click", "like").decode(value).shape == (2, 2)
    else:
        with pytest.raises(WireError, match=f"counter must have 24 bytes a task, got {len(value)}"):
            counters("click", "like").decode(value)


def test_an_absent_counter_is_zero() -> None:
    assert counters("click", "like").decode(None).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (("like", "click"), [[100, 5], [100, 40]]),
        (("click",), [[100, 40]]),
        (("share", "like"), [[0, 0], [100, 5]]),
        (("share",), [[0, 0]]),
    ],
)
def test_counts_follow_their_tasks_by_name(tasks: tuple[str, ...], expected: list[list[int]]) -> None:
    """A counter was known by its width alone: tasks in another order swapped their rates: faults.md, f09."""
    value = counters("click", "like").encode(np.array([[100, 40], [100, 5]]))
    assert counters(*tasks).decode(value).tolist() == expected


def test_a_task_that_was_added_later_has_a_rate_of_its_own_examples() -> None:
    some = counters("click", "like")
    values = some.values(some.encode(np.array([[1000, 100], [80, 40]])))
    np.testing.assert_allclose(values, [np.log(1001) / 10, (100 + 6) / 1020, (40 + 6) / 100], rtol=1e-6)
