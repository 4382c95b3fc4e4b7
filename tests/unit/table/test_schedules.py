"""Learning-rate schedules change at their steps, counted through snapshots, in tables and bags."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py.table import (
    Adagrad,
    CosineDecay,
    EmbeddingBags,
    EmbeddingTable,
    Feature,
    Ftrl,
    GroupFtrl,
    Optimizer,
    PolynomialDecay,
    Schedule,
    Sgd,
    Slice,
    StepDecay,
    Warmup,
)

DIM = 4
# Each with its first rates, from the definition.
SCHEDULES: list[tuple[Schedule, list[float]]] = [
    (Warmup(0.5, steps=4), [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5]),
    (PolynomialDecay(0.8, steps=4), [0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0]),
    (PolynomialDecay(0.8, steps=5, end=0.1, power=2.0), [0.1 + 0.7 * max(0.0, 1 - t / 5) ** 2 for t in range(8)]),
    (CosineDecay(0.4, steps=6, end=0.1), [0.1 + 0.15 * (1 + math.cos(math.pi * min(t, 6) / 6)) for t in range(8)]),
    (StepDecay(0.8, steps=3, factor=0.25), [0.8] * 3 + [0.2] * 3 + [0.05] * 2),
    (Warmup(0.5, steps=2, after=StepDecay(0.5, steps=2, factor=0.5)), [0.25, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
]
of_every_schedule = pytest.mark.parametrize(("schedule", "rates"), SCHEDULES, ids=[f"{schedule}" for schedule, _ in SCHEDULES])


def make_table(schedule: Schedule) -> EmbeddingTable:
    return EmbeddingTable(DIM, Sgd(lr=schedule), initializer="zeros")


def moves(table: EmbeddingTable, num_steps: int) -> list[float]:
    """Take steps with gradients of one; return how far each went, which is the rate."""
    rows = table.find_or_insert([1], 0)
    places = [float(table.gather(rows)[0, 0])]
    for _ in range(num_steps):
        table.update(rows, np.ones((1, DIM), np.float32))
        places.append(float(table.gather(rows)[0, 0]))
    return [-step for step in np.diff(places).tolist()]


@of_every_schedule
def test_each_step_is_taken_at_its_rate(schedule: Schedule, rates: list[float]) -> None:
    np.testing.assert_allclose(moves(make_table(schedule), len(rates)), rates, atol=1e-6)


@of_every_schedule
def test_a_restored_table_goes_on_where_its_schedule_was(schedule: Schedule, rates: list[float], tmp_path: Path) -> None:
    table, restored = make_table(schedule), make_table(schedule)
    moves(table, 3)
    table.save(tmp_path / "table")
    restored.restore_from(tmp_path / "table")
    np.testing.assert_allclose(moves(restored, 5), rates[3:], atol=1e-6)


@of_every_schedule
def test_bags_count_each_backward_as_a_step(schedule: Schedule, rates: list[float]) -> None:
    features = [Feature("a", dim=DIM, initializer="zeros"), Feature("b", dim=DIM, initializer="zeros")]
    bags = EmbeddingBags(features, Sgd(lr=schedule))
    kjt = KeyedJaggedTensor.from_lengths_sync(keys=["a", "b"], values=torch.tensor([1, 2]), lengths=torch.tensor([1, 1]))
    places = [np.zeros(2 * DIM)]
    for _ in rates:
        bags(kjt)  # without a backward it is no step
        bags(kjt).values().sum().backward()
        with torch.no_grad():
            places.append(bags(kjt).values().numpy()[0])
    np.testing.assert_allclose(-np.diff(places, axis=0), np.outer(rates, np.ones(2 * DIM)), atol=1e-6)


def test_each_slice_has_its_own_schedule() -> None:
    parts = [Slice("a", 4, Sgd(lr=StepDecay(1.0, steps=1, factor=0.5)), "zeros"), Slice("b", 4, Sgd(lr=0.25), "zeros")]
    table = EmbeddingTable(8, slices=parts)
    rows = table.find_or_insert([1], 0)
    for _ in range(3):
        table.update(rows, np.ones((1, 8), np.float32))
    assert table.gather(rows)[0].tolist() == [-1.75] * 4 + [-0.75] * 4


def test_a_rate_that_is_set_takes_the_schedules_place() -> None:
    table = make_table(Warmup(1.0, steps=4))
    assert moves(table, 2) == [0.25, 0.5]
    table.set_lr(0.125)
    assert moves(table, 3) == [0.125] * 3


def test_a_table_made_by_restore_keeps_the_rate_it_had(tmp_path: Path) -> None:
    table = make_table(Warmup(1.0, steps=4))
    moves(table, 2)
    table.save(tmp_path / "table")
    restored = EmbeddingTable.restore(tmp_path / "table")
    assert moves(restored, 3) == [0.5] * 3
    restored.set_lr(0.125)
    assert moves(restored, 1) == [0.125]


@pytest.mark.parametrize(
    "rule",
    [Ftrl(lr=PolynomialDecay(0.1, steps=2)), GroupFtrl(lr=PolynomialDecay(0.1, steps=2)), Adagrad(lr=CosineDecay(0.1, steps=2))],
    ids=lambda rule: rule.kind,
)
def test_a_rate_that_has_come_down_to_zero_takes_no_step(rule: Optimizer) -> None:
    table = EmbeddingTable(DIM, rule, init_scale=0.5)
    rows = table.find_or_insert(np.arange(5), 0)
    gradients = np.random.default_rng(4).normal(size=(5, DIM)).astype(np.float32)
    for _ in range(2):
        table.update(rows, gradients)
    before = table.gather(rows)
    assert before.all()
    for _ in range(3):
        table.update(rows, gradients)
    np.testing.assert_array_equal(table.gather(rows), before)


@pytest.mark.parametrize("rule", [Sgd, Adagrad, Ftrl])
def test_a_rate_that_is_no_schedule_must_be_positive(rule: type[Optimizer]) -> None:
    with pytest.raises(ValueError, match=r"lr must be > 0 and finite, got -0\.1"):
        rule(lr=-0.1)
    assert rule(lr=Warmup(0.1, steps=1)).rate(0) == 0.1


@pytest.mark.parametrize("setting", ["weight_decay", "clip_norm"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_decay_and_clip_must_not_be_negative(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be >= 0 and finite, got {value}"):
        Sgd(**{setting: value})
