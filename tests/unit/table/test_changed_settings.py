"""A table restored under other settings keeps its rows: optimizers, start values, admission, time to live, budget are settings."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.errors import CheckpointError
from monolith_py.table import Admission, EmbeddingTable, MemoryBudget, optimizers
from monolith_py.table.optimizers import Adagrad, Adam, Ftrl, GroupFtrl, Optimizer

DAY_S = 86_400
NOW_S = 1_700_000_000
FIDS = np.arange(200, dtype=np.int64)
RULES: list[Optimizer] = [rule() for rule in optimizers._RULES]


def table(optimizer: Optimizer | None = None, **settings: Any) -> EmbeddingTable:
    return EmbeddingTable(8, optimizer or Adagrad(), **settings)


def learn(made: EmbeddingTable, times: int = 3, now_s: int = NOW_S) -> None:
    generator = np.random.default_rng(1)
    for _ in range(times):
        made.update(made.find_or_insert(FIDS, now_s), generator.normal(size=(len(FIDS), 8)).astype(np.float32))


@pytest.fixture
def moved(tmp_path: Path) -> Callable[[EmbeddingTable, EmbeddingTable], EmbeddingTable]:
    """Return a function that restores a table from the snapshot of another."""

    def move(old: EmbeddingTable, new: EmbeddingTable) -> EmbeddingTable:
        old.save(tmp_path / "saved.table")
        new.restore_from(tmp_path / "saved.table")
        return new

    return move


@pytest.mark.parametrize(("before", "after"), list(product(RULES, RULES)), ids=lambda rule: rule.kind)
def test_rows_are_kept_and_the_state_of_another_optimizer_starts_anew(
    moved: Callable[..., EmbeddingTable], before: Optimizer, after: Optimizer
) -> None:
    old = table(before)
    learn(old)
    new = moved(old, table(after))
    rows = new.find(FIDS)
    np.testing.assert_array_equal(new.gather(rows), old.gather(old.find(FIDS)))
    if before.kind == after.kind:
        expected = old.state(old.find(FIDS))
    else:
        fresh = table(after)
        expected = fresh.state(fresh.find_or_insert(FIDS, NOW_S))
    state = new.state(rows)
    if isinstance(after, Ftrl | GroupFtrl) and before.kind != after.kind:
        state, expected = state[:, 8:], expected[:, 8:]  # z is not 0: see the next test
    np.testing.assert_array_equal(state, expected)


@pytest.mark.parametrize(
    "rule",
    [Ftrl(l1=0.1, l2=0.2, beta=1.0), Ftrl(), GroupFtrl(l1=0.01, l2=0.05), GroupFtrl(initial_accumulator=0.1)],
    ids=["l1 and l2", "plain", "group", "group, accumulator"],
)
def test_a_row_that_goes_on_under_ftrl_is_not_lost_by_its_first_update(moved: Callable[..., EmbeddingTable], rule: Optimizer) -> None:
    old = table(init_scale=1.0)
    learn(old)
    new = moved(old, table(rule))
    rows = new.find(FIDS)
    before = new.gather(rows)
    new.update(rows, np.full((len(FIDS), 8), 1e-6, np.float32))
    np.testing.assert_allclose(new.gather(rows), before, atol=2e-4)


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, 30 * DAY_S), (30 * DAY_S, None), (30 * DAY_S, 3600), (3600, 30 * DAY_S), (60, 120), (3600, 3600 * 50)],
)
def test_another_time_to_live_counts_from_the_last_sighting(
    moved: Callable[..., EmbeddingTable], before: int | None, after: int | None
) -> None:
    old = table(ttl_s=before)
    for fid in range(20):
        old.find_or_insert(np.array([fid]), NOW_S + fid)
    new = moved(old, table(ttl_s=after))
    new.find_or_insert(np.array([99]), NOW_S + 20)
    resolution_s = 2 * (max(before or 10_000, 1000) // 1000 + max(after or 10_000, 1000) // 1000)
    assert not len(new.evict(NOW_S + 20))
    if after is not None:
        assert not len(new.evict(NOW_S + after - resolution_s))
        assert new.evict(NOW_S + 19 + after + resolution_s).tolist()[:20] == list(range(20))
    else:
        assert not len(new.evict(NOW_S + 100 * DAY_S))


def test_candidates_go_on_with_their_counts_under_another_threshold(moved: Callable[..., EmbeddingTable]) -> None:
    old = table(admit_after=5)
    for _ in range(3):
        old.find_or_insert(FIDS, NOW_S)
    assert len(old) == 0
    for admit_after, num_rows in ((1, 200), (4, 200), (5, 0), (9, 0)):
        new = moved(old, table(admit_after=admit_after))
        new.find_or_insert(FIDS, NOW_S)
        assert len(new) == num_rows, admit_after


@pytest.mark.parametrize("kind", ["sketch", "proportional", "geometric"])
@pytest.mark.parametrize("back", [False, True])
def test_another_admission_keeps_rows_and_forgets_candidates(moved: Callable[..., EmbeddingTable], kind: Any, back: bool) -> None:
    settings: list[dict[str, Any]] = [{"admit_after": 3}, {"admit_after": 3, "admission": Admission(kind)}]
    before, after = settings[::-1] if back else settings
    old = table(**before)
    for _ in range(40):
        old.find_or_insert(FIDS[:100], NOW_S)
    old.find_or_insert(FIDS[100:], NOW_S)
    num_rows = len(old)
    assert num_rows >= 95
    new = moved(old, table(**after))
    assert (len(new), new.stats().candidates) == (num_rows, 0)
    assert (new.find(FIDS) != 0xFFFFFFFF).sum() == num_rows
    for _ in range(60):
        new.find_or_insert(FIDS, NOW_S)
    assert len(new) >= 195


def test_a_budget_is_kept_from_the_next_batch_on(moved: Callable[..., EmbeddingTable]) -> None:
    old = table()
    learn(old)
    new = moved(old, table(budget=MemoryBudget(8_000, "lru")))
    new.find_or_insert(FIDS[:1], NOW_S + 1000)
    assert 50 < len(new) < 120


def test_start_values_of_old_rows_stay_and_those_of_new_rows_follow_the_settings(moved: Callable[..., EmbeddingTable]) -> None:
    old = table(init_scale=0.01)
    old.find_or_insert(FIDS[:10], NOW_S)
    new = moved(old, table(initializer="constant", init_scale=0.5, seed=7))
    new.find_or_insert(FIDS[:20], NOW_S)
    assert (np.abs(new.gather(new.find(FIDS[:10]))) <= 0.01).all()
    assert (new.gather(new.find(FIDS[10:20])) == 0.5).all()


def test_another_width_is_refused_and_the_table_stays_empty(tmp_path: Path) -> None:
    old = table()
    learn(old)
    old.save(tmp_path / "saved.table")
    new = EmbeddingTable(16, Adagrad())
    with pytest.raises(CheckpointError, match="dim expected 16, got 8"):
        new.restore_from(tmp_path / "saved.table")
    assert len(new) == 0


def test_an_increment_follows_a_base_under_other_settings(tmp_path: Path) -> None:
    old = table(Adam(), ttl_s=30 * DAY_S)
    learn(old)
    saving = old.start_saving(tmp_path / "base.table")
    saving.finish()
    saving.commit(track=True)
    learn(old, now_s=NOW_S + 5000)
    more = old.start_saving(tmp_path / "more.table", increment=True)
    more.finish()
    more.commit()
    new = table(Adagrad(), ttl_s=3600)
    new.restore_from(tmp_path / "base.table")
    new.restore_from(tmp_path / "more.table")
    np.testing.assert_array_equal(new.gather(new.find(FIDS)), old.gather(old.find(FIDS)))
    new.find_or_insert(np.array([999]), NOW_S + 5001)
    assert not len(new.evict(NOW_S + 5001))
    assert len(new.evict(NOW_S + 5001 + 3 * 3600)) == 201
