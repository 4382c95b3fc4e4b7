"""Rules with group sparsity learn over a whole pass as their papers say: a row at zero keeps its state, and consumers get a tombstone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith_py.table import NO_ROW, EmbeddingTable, GroupAdagrad, GroupFtrl, Optimizer, Sgd

DIM, NUM_FIDS = 8, 300
RULES = [GroupAdagrad(lr=0.5, l2=0.4), GroupFtrl(lr=0.5, initial_accumulator=0.1, l2=0.6)]
FTRL, ADAGRAD = GroupFtrl(lr=0.1, initial_accumulator=0.1, l2=0.3), GroupAdagrad(lr=0.1, l2=0.006)
of_both_rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
Array = np.ndarray
Step = Callable[[Array, Array, Array], Array]


def make_table(rule: Optimizer, **settings: float) -> EmbeddingTable:
    return EmbeddingTable(DIM, rule, **{"init_scale": 0.3, "seed": 2, **settings})  # type: ignore[arg-type]


def step(table: EmbeddingTable, fids: Array, strong: Array) -> Array:
    """Rows of `strong` fids get a gradient that keeps them from zero, the others one of next to nothing; return all rows."""
    rows = table.find_or_insert(fids, 0)
    gradients = np.where(np.isin(fids, strong)[:, None], 3.0, 1e-3).astype(np.float32) * np.ones(DIM, np.float32)
    table.update(rows, gradients)
    return rows


def group_ftrl(rule: GroupFtrl) -> Step:
    """Ni et al. 2021, algorithm 1, one row, float64; state: z and n."""

    def take(w: Array, state: Array, g: Array) -> Array:
        z, n = state[:DIM], state[DIM:]
        z += g - (np.sqrt(n + g * g) - np.sqrt(n)) / rule.lr * w
        n += g * g
        kept = np.sign(z) * np.maximum(np.abs(z) - rule.l1, 0)
        norm, least = np.linalg.norm(kept), rule.l2 * np.sqrt(DIM)
        if norm <= least:
            return np.zeros(DIM)
        return -kept * (1 - least / norm) / ((rule.beta + np.sqrt(n)) / rule.lr)

    return take


def group_adagrad(rule: GroupAdagrad) -> Step:
    """Yang et al. 2010, equation 9, with one accumulator of the row, float64."""

    def take(w: Array, state: Array, g: Array) -> Array:
        state[0] += (g * g).max()
        rate = rule.lr / (np.sqrt(state[0]) + rule.eps)
        moved = w - rate * g
        norm, least = np.linalg.norm(moved), rate * rule.l2 * np.sqrt(DIM)
        return moved * (1 - least / norm) if norm > least else np.zeros(DIM)

    return take


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (FTRL, group_ftrl(FTRL)),
        (ADAGRAD, group_adagrad(ADAGRAD)),
    ],
    ids=["group_ftrl", "group_adagrad"],
)
def test_a_whole_pass_of_logistic_regression_equals_the_paper_in_float64(rule: Optimizer, reference: Step) -> None:
    """The mean gradient of a batch is far below the threshold at first: z must add up over steps before a row leaves zero."""
    generator = np.random.default_rng(5)
    truth = np.where(np.arange(40)[:, None] < 20, generator.normal(size=(40, DIM)), 0.0)
    table = make_table(rule, init_scale=0.01)
    table.find_or_insert(np.arange(40), 0)
    w, states = table.export_rows()[1].astype(np.float64), table.state(table.find(np.arange(40))).astype(np.float64)
    for _ in range(400):
        fids, sign = generator.integers(0, 40, 32), generator.normal(size=(32, DIM))
        labels = generator.random(32) < 1 / (1 + np.exp(-(truth[fids] * sign).sum(1)))
        rows = table.find_or_insert(fids, 0)
        errors = 1 / (1 + np.exp(-(table.gather(rows).astype(np.float64) * sign).sum(1))) - labels
        gradients = (errors[:, None] * sign / 32).astype(np.float32)
        table.update(rows, gradients)
        for fid in np.unique(fids):
            w[fid] = reference(w[fid], states[fid], gradients[fids == fid].astype(np.float64).sum(0))
    got = table.export_rows()
    assert got[0].tolist() == list(range(40)), "no row is born twice"
    np.testing.assert_allclose(got[1], w, rtol=2e-3, atol=2e-4)
    assert table.stats().freed > 0, "the penalty sets rows to zero"
    assert np.sum(got[1][:20].any(axis=1)) > 10, "rows with something to learn leave zero"


@of_both_rules
def test_a_row_at_zero_keeps_its_state_counts_as_freed_and_becomes_a_tombstone(rule: Optimizer) -> None:
    table = make_table(rule)
    fids, strong = np.arange(NUM_FIDS), np.arange(0, NUM_FIDS, 3)
    table.find_or_insert(fids, 0)
    for name in ("a", "b"):
        table.ack(name, table.drain(name).ticket)
    for _ in range(60):
        step(table, fids, strong)
    gone = np.setdiff1d(fids, strong)
    assert table.export_rows()[0].tolist() == fids.tolist()
    assert not table.lookup(gone).any() and table.lookup(strong).any(axis=1).all()
    assert (table.find(gone) != NO_ROW).all() and table.state(table.find(gone)).any(axis=1).all()
    stats = table.stats()
    assert (stats.freed, stats.evicted, stats.rows) == (len(gone), 0, NUM_FIDS)
    for delta in (table.drain("a"), table.drain_encoded("b")):
        assert sorted(delta.fids.tolist()) == strong.tolist()
        assert delta.evicted.tolist() == gone.tolist()


@of_both_rules
def test_a_row_at_zero_comes_back_when_its_gradients_add_up(rule: Optimizer) -> None:
    table = make_table(rule)
    table.find_or_insert([7], 0)
    for _ in range(60):
        step(table, np.array([7]), np.array([]))
    assert not table.lookup([7]).any()
    table.ack("a", table.drain("a").ticket)
    for _ in range(30):
        step(table, np.array([7]), np.array([7]))
    delta = table.drain("a")
    assert (delta.fids.tolist(), delta.evicted.tolist()) == ([7], [])
    assert delta.weights.any() and table.stats().admitted == 1


@of_both_rules
def test_rows_at_zero_are_in_snapshots_and_increments_with_their_state(rule: Optimizer, tmp_path: Path) -> None:
    table = make_table(rule)
    strong = np.arange(0, NUM_FIDS, 3)
    table.find_or_insert(np.arange(NUM_FIDS), 0)
    for number in range(5):
        saving = table.start_saving(tmp_path / f"{number}", increment=number > 0)
        saving.finish()
        saving.commit(track=True)
        if number < 4:
            for _ in range(12):
                step(table, np.arange(NUM_FIDS), strong)
    assert table.stats().freed > 0
    restored = EmbeddingTable.restore(*(tmp_path / f"{number}" for number in range(5)))
    for left, right in zip(restored.export_rows(), table.export_rows(), strict=True):
        np.testing.assert_array_equal(left, right)
    fids = np.arange(NUM_FIDS)
    np.testing.assert_array_equal(restored.state(restored.find(fids)), table.state(table.find(fids)))
    assert restored.stats().freed == table.stats().freed


def test_rules_without_group_sparsity_drain_rows_of_zeros() -> None:
    table = EmbeddingTable(DIM, Sgd(lr=1.0), initializer="zeros")
    rows = table.find_or_insert([1, 2], 0)
    table.update(rows, np.zeros((2, DIM), np.float32))
    assert (len(table), table.stats().freed, table.drain("a").fids.tolist()) == (2, 0, [1, 2])


@pytest.mark.parametrize("rule", [GroupAdagrad(l2=0.0), GroupFtrl(l2=0.0)], ids=lambda rule: rule.kind)
def test_without_strength_rows_that_learn_are_not_zero(rule: Optimizer) -> None:
    table = make_table(rule)
    for _ in range(20):
        step(table, np.arange(50), np.array([]))
    assert table.export_rows()[1].any(axis=1).all() and table.stats().freed == 0
