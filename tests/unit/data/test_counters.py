"""The stored form of counters; tests/unit/streaming/joiner/test_live_counters.py tests their use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.data.counters import counter_key, decode_counts, encode_counts
from monolith_py.errors import WireError

COUNTS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)


def test_the_key_and_the_bytes_of_a_counter_are_pinned() -> None:
    assert counter_key("video_id", -7) == "counter:video_id:-7"
    assert encode_counts(np.array([258, 1])).hex() == "02010000000000000100000000000000"


@given(COUNTS)
def test_counts_are_decoded_unchanged(counts: list[int]) -> None:
    assert decode_counts(encode_counts(np.array(counts)), len(counts) - 1).tolist() == counts


@given(st.binary(max_size=40))
def test_bytes_of_another_length_are_refused(value: bytes) -> None:
    if len(value) == 24:
        assert len(decode_counts(value, 2)) == 3
    else:
        with pytest.raises(WireError, match=f"counter must have 24 bytes for 2 tasks, got {len(value)}"):
            decode_counts(value, 2)


def test_an_absent_counter_is_zero() -> None:
    assert decode_counts(None, 2).tolist() == [0, 0, 0]
