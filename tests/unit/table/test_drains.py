"""Drains return every change until it is acknowledged, and a fid either as a row or as evicted."""

from __future__ import annotations

import numpy as np
import pytest

from monolith_py.table import EmbeddingTable, Sgd

DIM, TTL_S = 4, 10


@pytest.fixture
def table() -> EmbeddingTable:
    """Rows 1, 2 and 3, of which "replicas" has been told."""
    table = EmbeddingTable(DIM, Sgd(lr=1.0), ttl_s=TTL_S)
    table.find_or_insert([1, 2, 3], 0)
    table.ack("replicas", table.drain("replicas").ticket)
    return table


def drained(table: EmbeddingTable, consumer: str = "replicas") -> tuple[list[int], list[int]]:
    """Drain without an acknowledgement: (fids of rows, evicted fids)."""
    delta = table.drain(consumer)
    np.testing.assert_array_equal(delta.weights, table.gather(table.find(delta.fids)))
    return sorted(delta.fids.tolist()), sorted(delta.evicted.tolist())


def update(table: EmbeddingTable, *fids: int) -> None:
    table.update(table.find(fids), np.ones((len(fids), DIM), np.float32))


def test_only_what_changed_since_is_handed_out(table: EmbeddingTable) -> None:
    assert drained(table) == ([], [])
    update(table, 2, 2)
    table.find_or_insert([1, 4], 0)
    assert drained(table) == ([2, 4], [])


def test_what_nobody_acknowledged_comes_again_as_it_is_now(table: EmbeddingTable) -> None:
    update(table, 2)
    assert drained(table) == ([2], [])
    update(table, 3, 2)
    assert drained(table) == drained(table) == ([2, 3], [])


def test_a_change_after_a_drain_outlives_its_acknowledgement(table: EmbeddingTable) -> None:
    update(table, 2, 3)
    ticket = table.drain("replicas").ticket
    update(table, 3)
    table.ack("replicas", ticket)
    assert drained(table) == ([3], [])


def test_a_first_drain_hands_out_all_rows_and_consumers_do_not_see_each_other(table: EmbeddingTable) -> None:
    update(table, 2)
    assert drained(table, "archive") == ([1, 2, 3], [])
    assert drained(table) == ([2], [])
    table.ack("replicas", table.drain("replicas").ticket)
    assert drained(table, "archive") == ([1, 2, 3], [])


def test_an_evicted_fid_comes_as_evicted_until_it_is_acknowledged(table: EmbeddingTable) -> None:
    update(table, 1, 2)
    table.find_or_insert([3], 11)
    table.evict(11)
    assert drained(table) == drained(table) == ([], [1, 2])
    table.ack("replicas", table.drain("replicas").ticket)
    assert drained(table) == ([], [])


def test_a_fid_evicted_and_born_again_between_drains_is_a_row_and_not_evicted(table: EmbeddingTable) -> None:
    assert table.evict(11).tolist() == [1, 2, 3]
    table.find_or_insert([2], 11)
    assert drained(table) == ([2], [1, 3])


def test_a_fid_that_goes_and_comes_while_drains_are_in_flight_is_what_it_is_now(table: EmbeddingTable) -> None:
    for now_s in range(11, 100, 22):
        table.evict(now_s)
        assert drained(table) == ([], [1, 2, 3]), "gone while its row was in flight"
        table.find_or_insert([1, 2, 3], now_s)
        assert drained(table) == ([1, 2, 3], []), "back while its tombstone was in flight"
        table.evict(now_s + 11)
        table.find_or_insert([1, 2, 3], now_s + 11)
        assert drained(table) == ([1, 2, 3], [])


def test_a_row_that_was_recycled_is_handed_out_under_its_new_fid(table: EmbeddingTable) -> None:
    update(table, 1, 2, 3)
    table.evict(11)
    table.find_or_insert([4, 5, 6], 11)
    assert drained(table) == ([4, 5, 6], [1, 2, 3])


def test_a_fid_that_is_merely_counted_again_stays_evicted() -> None:
    table = EmbeddingTable(DIM, Sgd(), ttl_s=TTL_S, admit_after=2)
    table.find_or_insert([1, 1, 2], 0)
    assert drained(table) == ([1], [])
    table.evict(11)
    table.find_or_insert([1], 11)
    assert drained(table) == ([], [1]), "and 2 never had a row"
