"""Rows expire soon after their TTL, never before it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.table import NO_ROW, EmbeddingTable, Sgd

START_S = 1_700_000_000


def make_table(ttl_s: int | None, admit_after: int = 1) -> EmbeddingTable:
    return EmbeddingTable(4, Sgd(), ttl_s=ttl_s, admit_after=admit_after)


def resolution_s(ttl_s: int) -> int:
    """A thousandth of the TTL, in whole seconds."""
    return -(-ttl_s // 1000)


@given(ttl_s=st.integers(1, 90 * 86400), start_s=st.integers(0, 2 * START_S), data=st.data())
def test_no_row_goes_early_and_none_stays_for_long(ttl_s, start_s, data):
    table = make_table(ttl_s)
    ages = data.draw(st.lists(st.integers(0, 2 * ttl_s + 10), min_size=1, max_size=10, unique=True))
    now_s = start_s + max(ages)
    for age in ages:  # not sorted: events come late
        table.find_or_insert([age], now_s - age)
    evicted = table.evict(now_s).tolist()
    assert {age for age in ages if age >= ttl_s + 2 * resolution_s(ttl_s)} <= set(evicted)
    assert set(evicted) <= {age for age in ages if age > ttl_s}
    assert table.evict(now_s).tolist() == []


@pytest.mark.parametrize("ttl_s", [1, 10, 999, 1000])
def test_a_ttl_of_up_to_a_thousand_seconds_is_kept_to_the_second(ttl_s):
    table = make_table(ttl_s)
    table.find_or_insert([1], START_S)
    assert table.evict(START_S + ttl_s).tolist() == []
    assert table.evict(START_S + ttl_s + 1).tolist() == [1]


def test_a_sighting_keeps_a_row_and_a_mere_look_does_not():
    table = make_table(10)
    rows = table.find_or_insert([1, 2, 3], START_S)
    table.find_or_insert([1], START_S + 8)
    table.update(table.find([2]), np.ones((1, 4), np.float32))
    table.gather(rows)
    assert table.evict(START_S + 15).tolist() == [2, 3]
    assert (table.find([1, 2, 3]) == NO_ROW).tolist() == [False, True, True]


def test_a_late_event_does_not_make_a_row_older():
    table = make_table(10)
    table.find_or_insert([1], START_S)
    table.find_or_insert([1], START_S - 100)
    assert table.evict(START_S + 10).tolist() == []


def test_without_a_ttl_no_row_and_no_count_expires():
    table = make_table(None, admit_after=2)
    table.find_or_insert([1, 1, 2], 0)
    assert table.evict(100 * START_S).tolist() == []
    assert (table.find_or_insert([1, 2], 100 * START_S) != NO_ROW).all()


def test_sightings_of_a_fid_that_expired_no_longer_count():
    table = make_table(10, admit_after=3)
    table.find_or_insert([1, 1], START_S)
    assert table.evict(START_S + 11).tolist() == [], "a candidate has no row"
    assert table.stats().candidates == 0
    assert table.find_or_insert([1, 1], START_S + 11).tolist() == [NO_ROW] * 2
    assert table.find_or_insert([1], START_S + 11).tolist() != [NO_ROW]


def test_years_of_steady_time_lose_no_row_that_is_seen():
    table = make_table(10)
    for now_s in range(START_S, START_S + 300_000, 10):
        table.find_or_insert([1, now_s], now_s)
        assert table.evict(now_s).tolist() == ([now_s - 20] if now_s - START_S > 10 else [])
    assert table.find([1]).tolist() != [NO_ROW]


@pytest.mark.parametrize("num_fids", [50, 40_000])
def test_a_sweep_in_parts_lets_the_same_rows_go(num_fids):
    table, parts = make_table(100), make_table(100)
    for one in (table, parts):
        one.find_or_insert(np.arange(num_fids), START_S)
        one.find_or_insert(np.arange(0, num_fids, 3), START_S + 90)
    size = parts.stats().id_map_capacity // 10 + 4
    evicted = [parts.evict(START_S + 110, max_entries=size) for _ in range(10)]
    assert np.sort(np.concatenate(evicted)).tolist() == table.evict(START_S + 110).tolist()
    assert all(len(some) < num_fids / 5 for some in evicted) or num_fids == 50
    assert len(parts) == len(table) == len(range(0, num_fids, 3))


def test_memory_of_evicted_rows_is_used_again():
    table = make_table(10)
    sizes = []
    for turn in range(20):
        now_s = START_S + 20 * turn
        table.evict(now_s)
        table.find_or_insert(np.arange(5_000) + 5_000 * turn, now_s)
        sizes.append(table.stats().bytes)
    assert len(table) == 5_000
    assert sizes[-1] == sizes[1]
