"""An argument of a wrong type is refused by its name and value, not by a list of the core's signatures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monolith_py.table import (
    Adagrad,
    Admission,
    CosineDecay,
    EmbeddingBags,
    EmbeddingTable,
    Feature,
    MemoryBudget,
    PolynomialDecay,
    Sgd,
    Slice,
    StepDecay,
    Warmup,
)

GRADIENTS = np.ones((1, 4), np.float32)


def table(**settings: Any) -> EmbeddingTable:
    return EmbeddingTable(**{"dim": 4, "optimizer": Sgd(), **settings})


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "dim": (lambda: table(dim="4"), "dim must be a whole number, got '4'"),
    "dim of a slice": (lambda: table(dim=4, optimizer=None, slices=[Slice("w", 4.5, Sgd())]), "dim of slice 'w' must be a whole number"),  # type: ignore[arg-type]
    "ttl_s": (lambda: table(ttl_s=1.5), "ttl_s must be a whole number, got 1.5"),
    "ttl_s nan": (lambda: table(ttl_s=math.nan), "ttl_s must be a whole number, got nan"),
    "admit_after": (lambda: table(admit_after="2"), "admit_after must be a whole number, got '2'"),
    "seed": (lambda: table(seed=1.5), "seed must be a whole number, got 1.5"),
    "init_scale": (lambda: table(init_scale="x"), "init_scale of slice 'weights' must be a number, got 'x'"),
    "budget": (lambda: MemoryBudget(math.nan), "bytes of a budget must be a whole number, got nan"),  # type: ignore[arg-type]
    "budget of all": (lambda: MemoryBudget(2**70), "bytes and half_life_s of a budget must be"),
    "half_life_s": (lambda: MemoryBudget(1, half_life_s=math.inf), "half_life_s of a budget must be a whole number, got inf"),  # type: ignore[arg-type]
    "sketch_bytes": (lambda: Admission("sketch", "64"), "sketch_bytes must be a whole number, got '64'"),  # type: ignore[arg-type]
    "sketch of all memory": (lambda: Admission("sketch", 2**60), r"sketch_bytes must be in 64..2\^40, got 1152921504606846976"),
    "window_s": (lambda: Admission("sketch", window_s=math.nan), "window_s must be a whole number, got nan"),  # type: ignore[arg-type]
    "length": (lambda: Feature("a", pooling="first", length=1.5), "length of feature 'a' must be a whole number, got 1.5"),  # type: ignore[arg-type]
    "lr": (lambda: Sgd(lr="x"), "lr must be a number, got 'x'"),  # type: ignore[arg-type]
    "eps": (lambda: Adagrad(eps=None), "eps must be a number, got None"),  # type: ignore[arg-type]
    "now_s": (lambda: table().find_or_insert([1], None), "now_s must be event time in seconds, got None"),  # type: ignore[arg-type]
    "now_s of an eviction": (lambda: table(ttl_s=1).evict(math.nan), "now_s must be event time in seconds, got nan"),
    "max_entries": (lambda: table(ttl_s=1).evict(0, -1), "max_entries must be >= 1 or None, got -1"),
    "lr that is set": (lambda: table().set_lr("x"), "lr must be a number, got 'x'"),  # type: ignore[arg-type]
    "rows": (lambda: table().gather([0]), r"rows must be uint32 \(n,\), got int64 \(1,\)"),  # type: ignore[arg-type]
    "rows of a matrix": (lambda: table().state(np.zeros((1, 1), np.uint32)), r"rows must be uint32 \(n,\), got uint32 \(1, 1\)"),
    "rows of an update": (lambda: table().update(np.zeros(1, np.int64), GRADIENTS), r"rows must be uint32 \(n,\), got int64 \(1,\)"),  # type: ignore[arg-type]
    "gradients": (
        lambda: table().update(np.zeros(1, np.uint32), np.ones((1, 4))),
        r"gradients must be float32 \(n, D\), got float64 \(1, 4\)",
    ),
    "gradients of one dimension": (
        lambda: table().update(np.zeros(1, np.uint32), np.ones(4, np.float32)),
        r"gradients must be float32 \(n, D\), got float32 \(4,\)",
    ),
    "scale": (lambda: EmbeddingBags([Feature("a")], Sgd(), defers_steps=True).step("x"), "scale must be a number, got 'x'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_by_its_name_and_value(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


SCHEDULES: dict[str, tuple[Callable[[], Any], str]] = {
    "steps": (lambda: PolynomialDecay(0.1, steps=0), "steps must be >= 1, got 0"),
    "whole steps": (lambda: CosineDecay(0.1, steps=1.5), "steps must be a whole number, got 1.5"),  # type: ignore[arg-type]
    "steps nan": (lambda: StepDecay(0.1, steps=math.nan, factor=0.5), "steps must be a whole number, got nan"),  # type: ignore[arg-type]
    "steps of a warm-up": (lambda: Warmup(0.1, steps=-1), "steps must be >= 0, got -1"),
    "lr": (lambda: PolynomialDecay(math.nan, steps=2), "lr must be >= 0 and finite, got nan"),
    "lr of a cosine": (lambda: CosineDecay(math.inf, steps=2), "lr must be >= 0 and finite, got inf"),
    "lr of a warm-up": (lambda: Warmup(-0.1, steps=2), "lr must be >= 0 and finite, got -0.1"),
    "end": (lambda: CosineDecay(0.1, steps=2, end=-1.0), "end must be >= 0 and finite, got -1.0"),
    "power": (lambda: PolynomialDecay(0.1, steps=2, power=-1.0), "power must be >= 0 and finite, got -1.0"),  # divided by zero at the end
    "factor": (lambda: StepDecay(0.1, steps=2, factor=-0.5), "factor must be >= 0 and finite, got -0.5"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_whose_rates_are_no_rates_is_refused(name: str) -> None:
    call, message = SCHEDULES[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_floats_and_times_with_fractions_are_taken() -> None:
    one = table(dim=4.0, ttl_s=10.0, admit_after=1.0, seed=-1, budget=MemoryBudget(1e6), admission=Admission("sketch", 1e5))  # type: ignore[arg-type]
    one.find_or_insert([1], 1_700_000_000.9)
    assert one.entries().seen_s.tolist() == [1_700_000_000]
    one.find_or_insert([2], np.float64(1_700_000_100.0))
    assert one.evict(1_700_000_100.5).tolist() == [1]
    assert table(seed=2**64).lookup([]).shape == (0, 4)
    one.update(one.find([2]), np.ones((1, 8), np.float32)[:, ::2])
