"""A wrong argument is refused before the table reads or writes anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.table import NO_ROW, EmbeddingTable, Feature, Sgd

DIM = 4


@pytest.fixture
def table() -> EmbeddingTable:
    table = EmbeddingTable(DIM, Sgd(lr=1.0), ttl_s=10)
    table.find_or_insert([1, 2, 3], 0)
    return table


def uint32(*rows: int) -> np.ndarray:
    return np.array(rows, np.uint32)


@pytest.mark.parametrize(
    "fids",
    [
        [1.0],
        np.array([1], np.int32),
        np.array([1], np.uint64),
        np.array([True]),
        np.array(["1"]),
        np.array([[1], [2]]),
        np.array([1.5, np.nan]),
        np.zeros((0, 2), np.int64),
    ],
    ids=["float list", "int32", "uint64", "bool", "text", "matrix", "float", "empty matrix"],
)
def test_fids_must_be_one_row_of_int64(table: EmbeddingTable, fids: Any) -> None:
    before = table.stats()
    with pytest.raises(ValueError, match=r"fids must be int64 \(n,\)"):
        table.find(fids)
    with pytest.raises(ValueError, match=r"fids must be int64 \(n,\)"):
        table.find_or_insert(fids, 0)
    assert table.stats() == before


def test_fids_may_be_a_list_a_slice_or_nothing(table: EmbeddingTable) -> None:
    rows = table.find([1, 2, 3])
    assert (table.find(np.array([1, 9, 2, 9, 3])[::2]) == rows).all()
    for nothing in ([], np.zeros(0, np.int64)):
        assert table.find(nothing).shape == table.find_or_insert(nothing, 0).shape == (0,)
        assert table.gather(table.find(nothing)).shape == (0, DIM)
        table.update(table.find(nothing), np.zeros((0, DIM), np.float32))
    assert len(table) == 3


@pytest.mark.parametrize(
    "rows",
    [np.array([0], np.int64), np.array([0], np.int32), np.array([0.0], np.float32), np.zeros((1, 1), np.uint32)],
    ids=["int64", "int32", "float32", "matrix"],
)
def test_rows_must_be_one_row_of_uint32(table: EmbeddingTable, rows: np.ndarray) -> None:
    before = table.export_rows()[1]
    with pytest.raises((TypeError, ValueError)):
        table.gather(rows)
    with pytest.raises((TypeError, ValueError)):
        table.update(rows, np.ones((1, DIM), np.float32))
    np.testing.assert_array_equal(table.export_rows()[1], before)


@pytest.mark.parametrize(
    "gradients",
    [
        np.ones((3, DIM), np.float64),
        np.ones((3, DIM), np.float16),
        np.ones((2, DIM), np.float32),
        np.ones((4, DIM), np.float32),
        np.ones((3, DIM - 1), np.float32),
        np.ones((DIM, 3), np.float32),
        np.ones((6, DIM // 2), np.float32),
        np.ones(3 * DIM, np.float32),
        np.ones((3, DIM, 1), np.float32),
    ],
    ids=lambda gradients: f"{gradients.dtype}{gradients.shape}",
)
def test_gradients_must_be_float32_with_one_row_of_dim_each(table: EmbeddingTable, gradients: np.ndarray) -> None:
    before = table.export_rows()[1]
    with pytest.raises((TypeError, ValueError)):
        table.update(table.find([1, 2, 3]), gradients)
    np.testing.assert_array_equal(table.export_rows()[1], before)


@pytest.mark.parametrize("wild", [3, 4, 1024, 10**6, 2**31, NO_ROW - 1])
def test_a_row_that_was_never_given_out_is_refused_and_nothing_changes(table: EmbeddingTable, wild: int) -> None:
    before = table.export_rows()[1]
    table.ack("a", table.drain("a").ticket)
    for rows in (uint32(wild), uint32(0, 1, wild), uint32(wild, NO_ROW, 0)):
        with pytest.raises(ValueError, match=f"rows must be NO_ROW or below 3, got {wild}"):
            table.gather(rows)
        with pytest.raises(ValueError, match=f"rows must be NO_ROW or below 3, got {wild}"):
            table.update(rows, np.ones((len(rows), DIM), np.float32))
    np.testing.assert_array_equal(table.export_rows()[1], before)
    assert len(table.drain("a").fids) == 0


def test_an_empty_table_has_given_out_no_row() -> None:
    table = EmbeddingTable(DIM, Sgd())
    with pytest.raises(ValueError, match="rows must be NO_ROW or below 0, got 0"):
        table.gather(uint32(0))
    assert not table.gather(uint32(NO_ROW)).any()


@pytest.mark.parametrize("wild", [2, 3, NO_ROW - 1])
def test_the_pooled_backward_refuses_wild_rows_before_it_changes_any_table(table: EmbeddingTable, wild: int) -> None:
    other = EmbeddingTable(DIM, Sgd())
    other.find_or_insert([1, 2], 0)
    before = [one.export_rows()[1] for one in (table, other)]
    with pytest.raises(ValueError, match="rows must be NO_ROW or below 2"):  # row 2 is one of `table`, not of `other`
        _core.pooled_backward(
            [table.core, other.core],
            np.array([1, 2, 1]),
            uint32(0, 1, wild),
            [0, 0],
            np.array([0, 1, 2, 2, 3]),
            None,
            [0] * 2,
            np.ones((2, 2 * DIM), np.float32),
        )
    for one, weights in zip((table, other), before, strict=True):
        np.testing.assert_array_equal(one.export_rows()[1], weights)


@pytest.mark.parametrize("offsets", [[0, 2], [0, 1, 2, 3], [1, 2, 3], [0, 2, 1], [0, 1, 2], [0, -1, 3], [0, 1, 4]], ids=str)
def test_offsets_must_part_the_fids_into_bags(table: EmbeddingTable, offsets: list[int]) -> None:
    pooled, rows = np.full((2, DIM), 7, np.float32), np.full(3, 7, np.uint32)
    with pytest.raises(ValueError, match="offsets"):
        _core.pooled_forward([table.core], np.array([1, 2, 9]), np.array(offsets), None, [0], 0, [True], pooled, rows)
    with pytest.raises(ValueError, match="offsets"):
        _core.pooled_backward([table.core], np.array([1, 2, 9]), uint32(0, 1, 2), [0], np.array(offsets), None, [0], pooled)
    assert len(table) == 3 and (pooled == 7).all() and (rows == 7).all()


def test_an_update_through_an_evicted_row_does_not_bring_its_fid_back(table: EmbeddingTable) -> None:
    table.ack("a", table.drain("a").ticket)
    rows = table.find([1, 2, 3])
    table.find_or_insert([3], 20)
    assert table.evict(20).tolist() == [1, 2]
    table.update(rows, np.ones((3, DIM), np.float32))
    delta = table.drain("a")
    assert (delta.fids.tolist(), delta.evicted.tolist()) == ([3], [1, 2])
    fresh = EmbeddingTable(DIM, Sgd(lr=1.0))
    np.testing.assert_array_equal(
        table.gather(table.find_or_insert([1, 2], 20)), fresh.gather(fresh.find_or_insert([1, 2], 0)), "a row starts anew"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbeddingTable(0, Sgd()), "dim of slice 'weights' must be >= 1, got 0"),
        (lambda: EmbeddingTable(4, Sgd(), admit_after=0), r"admit_after must be in 1\.\.65535, got 0"),
        (lambda: EmbeddingTable(4, Sgd(), admit_after=65536), r"admit_after must be in 1\.\.65535, got 65536"),
        (lambda: EmbeddingTable(4, Sgd(), ttl_s=0), "ttl_s must be > 0 or None, got 0"),
        (lambda: EmbeddingTable(4, Sgd(), ttl_s=-5), "ttl_s must be > 0 or None, got -5"),
        (lambda: Feature("a", pooling="max"), "pooling of feature 'a' must be 'sum', 'mean' or 'first', got 'max'"),
        (lambda: _core.Slice("w", 4, "lion", {}, "uniform", 0.1, "fp16"), "optimizer must be one of sgd, .*, got 'lion'"),
        (lambda: _core.Slice("w", 4, "sgd", {"mass": 0.9}, "uniform", 0.1, "fp16"), "hyperparameters has no field 'mass'"),
    ],
)
def test_a_setting_out_of_its_range_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_acknowledgement_must_be_of_the_last_drain(table: EmbeddingTable) -> None:
    with pytest.raises(ValueError, match="has not drained"):
        table.ack("a", 1)
    first = table.drain("a").ticket
    second = table.drain("a").ticket
    with pytest.raises(ValueError, match="ticket must be that of the last drain"):
        table.ack("a", first)
    assert len(table.drain("a").fids) == 3, "what a refused ticket held comes again"
    with pytest.raises(ValueError, match="ticket must be that of the last drain"):
        table.ack("a", second)


@pytest.mark.parametrize("now_s", [2**40 + 1, -(2**40) - 1, 2**63 - 1, -(2**63)])
def test_a_time_that_is_out_of_this_world_is_refused_and_counts_nothing(table: EmbeddingTable, now_s: int) -> None:
    before = table.stats()
    for call in (lambda: table.find_or_insert([1, 77], now_s), lambda: table.evict(now_s)):
        with pytest.raises(ValueError, match=rf"now_s must be within 2\^40 seconds of the epoch, got {now_s}"):
            call()
    assert table.stats() == before


@pytest.mark.parametrize("rate", [-0.1, float("nan")])
def test_a_rate_below_zero_or_no_number_is_refused(table: EmbeddingTable, rate: float) -> None:
    with pytest.raises(ValueError, match="lr must be >= 0, got"):
        table.set_lr(rate)
