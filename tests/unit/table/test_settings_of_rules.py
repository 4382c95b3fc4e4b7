"""Hyperparameters under which a row could become infinite or NaN are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from monolith_py import table as tables
from monolith_py.table import Adam, CosineDecay, EmbeddingTable, Ftrl, GroupFtrl, PolynomialDecay, RmsProp, Sgd, Slice, StepDecay


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sgd(lr=math.inf), "lr must be > 0 and finite, got inf"),
        (lambda: Sgd(lr=1e-60), "lr must be > 0 and finite, got 1e-60"),
        (lambda: Sgd(lr=math.nan), "lr must be > 0 and finite, got nan"),
        (lambda: tables.Adagrad(eps=0.0), "eps must be > 0 and finite, got 0.0"),
        (lambda: tables.Adagrad(eps=1e-60), "eps must be > 0 and finite, got 1e-60"),
        (lambda: tables.Adagrad(eps=-1.0), "eps must be > 0 and finite, got -1.0"),
        (lambda: tables.Adagrad(initial_accumulator=-0.1), "initial_accumulator must be >= 0 and finite, got -0.1"),
        (lambda: Adam(beta1=1.5), "beta1 must be >= 0 and < 1, got 1.5"),
        (lambda: Adam(beta2=1.0), "beta2 must be >= 0 and < 1, got 1.0"),
        (lambda: tables.Momentum(momentum=5.0), "momentum must be >= 0 and < 1, got 5.0"),
        (lambda: RmsProp(rho=2.0), "rho must be >= 0 and < 1, got 2.0"),
        (lambda: Sgd(weight_decay=math.inf), "weight_decay must be >= 0 and finite, got inf"),
        (lambda: Ftrl(initial_accumulator=0.0, beta=0.0), "initial_accumulator or beta of FTRL must be > 0, got 0.0 and 0.0"),
        (lambda: GroupFtrl(initial_accumulator=0.0, beta=0.0, l2=1.0), "initial_accumulator or beta of FTRL must be > 0"),
        (lambda: PolynomialDecay(0.1, steps=0), "steps must be >= 1, got 0"),
        (lambda: CosineDecay(0.1, steps=0), "steps must be >= 1, got 0"),
        (lambda: StepDecay(0.1, steps=0, factor=0.5), "steps must be >= 1, got 0"),
        (lambda: EmbeddingTable(4, Sgd(), init_scale=math.nan), "init_scale of slice 'weights' must be finite in float32, got nan"),
        (lambda: EmbeddingTable(4, Sgd(), init_scale=1e39), "init_scale of slice 'weights' must be finite in float32, got 1e"),
        (lambda: Slice("a", 4, Sgd(), init_scale=math.inf).core(), "init_scale of slice 'a' must be finite"),
    ],
)
def test_a_setting_that_could_break_rows_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(set(tables.__all__) & {rule.__name__ for rule in tables.Optimizer.__subclasses__()} | {"AdamW"}))
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-25, 1.0, 2.0**47])
def test_a_gradient_of_any_permitted_size_leaves_every_rule_finite(name: str, size: float) -> None:
    table = EmbeddingTable(4, getattr(tables, name)())
    rows = table.find_or_insert(np.arange(3), 0)
    for _ in range(5):
        table.update(np.repeat(rows, 4), np.full((12, 4), size, np.float32))
    assert np.isfinite(table.export_rows()[1]).all()
