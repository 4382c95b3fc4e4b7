"""Density and drop fraction over the steps."""

from __future__ import annotations

import math

import pytest

from monolith_py.config.sparsity import SparsityConfig
from monolith_py.tower.rule.schedule import cubic_ramp, density_at, drop_fraction_at, half_cosine, is_due


def test_the_ramp_is_equation_1_of_zhu_and_gupta() -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0."""
    for step in range(100, 1101, 50):
        sparsity = 0.9 + (0 - 0.9) * (1 - (step - 100) / 1000) ** 3
        assert cubic_ramp(step, 100, 1100, 0.1) == pytest.approx(1 - sparsity, abs=1e-12)
    assert (cubic_ramp(0, 100, 1100, 0.1), cubic_ramp(100, 100, 1100, 0.1)) == (1.0, 1.0)
    assert cubic_ramp(1100, 100, 1100, 0.1) == cubic_ramp(10**9, 100, 1100, 0.1) == 0.1


def test_the_cosine_goes_from_high_to_low() -> None:
    assert half_cosine(0, 0.5, 0.005, 100) == 0.5
    assert half_cosine(50, 0.5, 0.005, 100) == pytest.approx(0.2525)
    assert half_cosine(25, 0.5, 0.005, 100) == pytest.approx(0.005 + 0.495 * (1 + math.sqrt(0.5)) / 2)
    assert half_cosine(100, 0.5, 0.005, 100) == half_cosine(10**9, 0.5, 0.005, 100) == 0.005


def test_the_density_is_constant_without_a_ramp() -> None:
    assert {density_at(SparsityConfig(preset="dsl"), step) for step in (0, 10, 10**6)} == {0.5}
    gmp = SparsityConfig(preset="gmp", ramp=(10, 20))
    assert [density_at(gmp, step) for step in (0, 10, 20, 30)] == [1.0, 1.0, 0.2, 0.2]


def test_published_schedules_end_and_the_online_one_never_does() -> None:
    dsl, rigl = (SparsityConfig(preset=preset, cosine_steps=1000) for preset in ("dsl", "rigl"))
    assert [drop_fraction_at(dsl, step) for step in (0, 1000, 5000)] == [0.5, 0.0, 0.0]
    assert drop_fraction_at(dsl, 999) == pytest.approx(0.005, abs=1e-5)
    assert drop_fraction_at(rigl, 500) == pytest.approx(0.15) and drop_fraction_at(rigl, 1000) == 0
    online = SparsityConfig(preset="dsl_online", cosine_steps=1000)
    assert drop_fraction_at(online, 0) == pytest.approx(0.2)
    assert drop_fraction_at(online, 1000) == drop_fraction_at(online, 10**9) == 0.1
    assert drop_fraction_at(SparsityConfig(preset="set"), 10**9) == 0.3
    assert drop_fraction_at(SparsityConfig(preset="static"), 0) == 0


def test_the_topology_changes_every_so_many_steps_while_it_ramps_or_swaps() -> None:
    def due(config: SparsityConfig) -> list[int]:
        return [step for step in range(61) if is_due(config, step, step)]

    assert due(SparsityConfig(preset="dsl", update_interval=10, cosine_steps=40)) == [10, 20, 30]
    assert due(SparsityConfig(preset="set", update_interval=20)) == [20, 40, 60]
    assert due(SparsityConfig(preset="static")) == due(SparsityConfig()) == []
    # The ramp ends at 25: the change at 30 reaches the density.
    assert due(SparsityConfig(preset="gmp", update_interval=10, ramp=(10, 25))) == [20, 30]
    assert due(SparsityConfig(preset="gmp", update_interval=10, ramp=(0, 30))) == [10, 20, 30]
