"""One batch with a wrong time switches no TTL, budget or admission off; time may go back; a table mends itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monolith_py.table import NO_ROW, Admission, EmbeddingTable, MemoryBudget, Sgd

START_S, TEN_YEARS_S, TTL_S = 1_700_000_000, 10 * 365 * 86_400, 100
wrong_times = pytest.mark.parametrize("wrong_s", [START_S + TEN_YEARS_S, START_S + 20 * TTL_S * 1_000, 0, -500], ids=str)


def make_table(**settings: object) -> EmbeddingTable:
    return EmbeddingTable(4, Sgd(), **{"ttl_s": TTL_S, **settings})  # type: ignore[arg-type]


@wrong_times
def test_rows_expire_in_time_after_a_batch_of_a_wrong_time(wrong_s: int) -> None:
    table = make_table()
    table.find_or_insert(np.arange(1_000), START_S)
    table.find_or_insert([5_000], wrong_s)
    table.find_or_insert([6_000], START_S + 50)
    assert table.evict(START_S + TTL_S - 1).tolist() in ([], [5_000])
    assert np.isin(np.arange(1_000), table.evict(START_S + TTL_S + 2)).all()
    assert table.find([6_000]).tolist() != [NO_ROW]


@wrong_times
def test_a_snapshot_keeps_no_wrong_time(wrong_s: int, tmp_path: Path) -> None:
    table = make_table()
    table.find_or_insert(np.arange(100), START_S)
    table.find_or_insert([5_000], wrong_s)
    table.save(tmp_path / "t")
    restored = EmbeddingTable.restore(tmp_path / "t")
    restored.find_or_insert([6_000], START_S + 50)
    assert np.isin(np.arange(100), restored.evict(START_S + TTL_S + 2)).all()


@wrong_times
def test_a_budget_holds_after_a_batch_of_a_wrong_time(wrong_s: int) -> None:
    table = EmbeddingTable(4, Sgd(), budget=MemoryBudget(100_000))
    table.find_or_insert([1], START_S)
    table.find_or_insert([2], wrong_s)
    most = 0
    for batch in range(100):
        table.find_or_insert(np.arange(500) + 500 * batch, START_S + 20 * batch)
        most = max(most, len(table))
    assert most <= 100_000 / 48 + 1_000


@wrong_times
def test_a_sketch_forgets_after_a_batch_of_a_wrong_time(wrong_s: int) -> None:
    table = EmbeddingTable(4, Sgd(), admit_after=3, admission=Admission("sketch", window_s=60))
    table.find_or_insert(np.arange(500), START_S)
    table.find_or_insert(np.arange(500), wrong_s)
    for day in range(6):
        assert (table.find_or_insert(np.arange(500), START_S + 86_400 * (day + 1)) == NO_ROW).all(), day


def test_time_that_stays_elsewhere_is_believed_and_rows_of_the_wrong_time_expire() -> None:
    table = make_table()
    for _ in range(20):  # a wrong clock for a while
        table.find_or_insert([1], START_S + TEN_YEARS_S)
    table.find_or_insert([2], START_S + TEN_YEARS_S)
    for later_s in range(20):
        table.find_or_insert([3], START_S + later_s)
    assert table.evict(START_S + 50).tolist() == []
    assert table.evict(START_S + 50 + 2 * TTL_S).tolist() == [1, 2, 3]


def test_a_job_that_was_down_for_a_year_goes_on() -> None:
    table = make_table()
    table.find_or_insert([1], START_S)
    for second in range(40):
        now_s = START_S + TEN_YEARS_S + second
        table.find_or_insert([2], now_s)
        assert 2 not in table.evict(now_s).tolist()
    assert table.find([1, 2])[0] == NO_ROW
    assert table.evict(START_S + TEN_YEARS_S + 40 + TTL_S).tolist() == [2]


def test_a_time_to_live_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ttl_s must be in 0\.\.2\^40, got 9223372036854775807"):
        make_table(ttl_s=2**63 - 1)
