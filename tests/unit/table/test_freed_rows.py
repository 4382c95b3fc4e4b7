"""Rules with group sparsity free rows that become zero: drains report them, and their fids start as new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monolith_py.table import NO_ROW, EmbeddingTable, GroupAdagrad, GroupFtrl, Optimizer, Sgd

DIM, NUM_FIDS = 8, 300
RULES = [GroupAdagrad(lr=0.5, l2=0.4), GroupFtrl(lr=0.5, initial_accumulator=0.1, l2=0.6)]
of_both_rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)


def make_table(rule: Optimizer, **settings: int) -> EmbeddingTable:
    return EmbeddingTable(DIM, rule, init_scale=0.3, seed=2, **settings)


def step(table: EmbeddingTable, fids: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Rows of `strong` fids get a gradient that keeps them alive, the others one of next to nothing; return all rows."""
    rows = table.find_or_insert(fids, 0)
    gradients = np.where(np.isin(fids, strong)[:, None], 3.0, 1e-3).astype(np.float32) * np.ones(DIM, np.float32)
    table.update(rows, gradients)
    return rows


@of_both_rules
def test_a_row_at_zero_is_gone_counts_as_freed_and_becomes_a_tombstone(rule: Optimizer) -> None:
    table = make_table(rule)
    fids, strong = np.arange(NUM_FIDS), np.arange(0, NUM_FIDS, 3)
    table.find_or_insert(fids, 0)
    for name in ("a", "b"):
        table.ack(name, table.drain(name).ticket)
    while len(table) > len(strong):
        before = len(table)
        step(table, table.export_rows()[0], strong)
        assert len(table) <= before
    gone = np.setdiff1d(fids, strong)
    assert table.export_rows()[0].tolist() == strong.tolist()
    assert (table.find(gone) == NO_ROW).all() and table.export_rows()[1].any(axis=1).all()
    stats = table.stats()
    assert (stats.freed, stats.evicted, stats.rows) == (len(gone), 0, len(strong))
    for delta in (table.drain("a"), table.drain_encoded("b")):
        assert sorted(delta.fids.tolist()) == strong.tolist()
        assert delta.evicted.tolist() == gone.tolist()


@of_both_rules
def test_a_freed_fid_that_comes_again_starts_anew(rule: Optimizer) -> None:
    table, fresh = make_table(rule), make_table(rule)
    table.find_or_insert([7], 0)
    while len(table):
        step(table, np.array([7]), np.array([]))
    table.drain("a")
    for one in (table, fresh):
        one.find_or_insert([7], 0)
    np.testing.assert_array_equal(table.export_rows()[1], fresh.export_rows()[1])
    np.testing.assert_array_equal(table.state(table.find([7])), fresh.state(fresh.find([7])))
    delta = table.drain("a")
    assert (delta.fids.tolist(), delta.evicted.tolist()) == ([7], [])


@of_both_rules
def test_a_freed_row_may_be_updated_by_a_late_gradient_without_coming_back(rule: Optimizer) -> None:
    table = make_table(rule)
    rows = table.find_or_insert([7], 0)
    while len(table):
        step(table, np.array([7]), np.array([]))
    table.update(rows, np.ones((1, DIM), np.float32))
    assert (len(table), table.stats().freed, table.find([7]).tolist()) == (0, 1, [NO_ROW])
    taken = table.find_or_insert([8], 0)
    fresh = make_table(rule)
    np.testing.assert_array_equal(table.gather(taken), fresh.gather(fresh.find_or_insert([8], 0)))


@of_both_rules
def test_freed_rows_stay_gone_in_snapshots_and_increments(rule: Optimizer, tmp_path: Path) -> None:
    table = make_table(rule)
    strong = np.arange(0, NUM_FIDS, 3)
    table.find_or_insert(np.arange(NUM_FIDS), 0)
    for number in range(4):
        saving = table.start_saving(tmp_path / f"{number}", increment=number > 0)
        saving.finish()
        saving.commit(track=True)
        for _ in range(3):
            step(table, table.export_rows()[0], strong)
    saving = table.start_saving(tmp_path / "4", increment=True)
    saving.finish()
    saving.commit()
    assert table.stats().freed > 0
    restored = EmbeddingTable.restore(*(tmp_path / f"{number}" for number in range(5)))
    for left, right in zip(restored.export_rows(), table.export_rows(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert restored.stats().freed == table.stats().freed


def test_rules_without_group_sparsity_keep_rows_of_zeros() -> None:
    table = EmbeddingTable(DIM, Sgd(lr=1.0), initializer="zeros")
    rows = table.find_or_insert([1, 2], 0)
    table.update(rows, np.zeros((2, DIM), np.float32))
    assert (len(table), table.stats().freed) == (2, 0)


@pytest.mark.parametrize("rule", [GroupAdagrad(l2=0.0), GroupFtrl(l2=0.0)], ids=lambda rule: rule.kind)
def test_without_strength_rows_that_learn_are_not_freed(rule: Optimizer) -> None:
    table = make_table(rule)
    for _ in range(20):
        step(table, np.arange(50), np.array([]))
    assert (len(table), table.stats().freed) == (50, 0)
