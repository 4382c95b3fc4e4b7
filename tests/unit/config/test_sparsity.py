"""Settings of sparse towers: presets fill, arguments override, and what has no effect or breaks a rule is refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from monolith_py.config.sparsity import PRESETS, Preset, SparsityConfig


def parse(**settings: Any) -> SparsityConfig:
    return SparsityConfig.model_validate(settings)


REFUSED = [
    ({"density": 0.0, "preset": "set"}, "Input should be greater than 0"),
    ({"density": 1.5, "preset": "set"}, "Input should be less than or equal to 1"),
    ({"density": float("nan"), "preset": "set"}, "Input should be"),
    ({"preset": "lottery"}, "Input should be 'dense', 'static'"),
    ({"preset": ["dsl"]}, "Input should be 'dense', 'static'"),
    ({"preset": "dsl", "atom": "4x4"}, "Input should be '16x1', '1x1' or 'neuron'"),
    ({"preset": "dsl", "pool": "tower"}, "String should match pattern"),
    ({"preset": "dsl", "pool": "0:4"}, "String should match pattern"),
    ({"preset": "dsl", "colour": 1}, "Extra inputs are not permitted"),
    ({"density": 0.2}, "model.sparsity.density must come with a preset other than 'dense', got 0.2 without"),
    ({"swap": "cosine"}, "model.sparsity.swap must come with a preset other than 'dense', got 'cosine' without"),
    ({"preset": "static", "density": 1.0}, "model.sparsity.density must be below 1 unless preset = 'dense', got 1.0"),
    ({"preset": "static", "grow": "random"}, "model.sparsity.grow must come with swaps, got 'random' without"),
    ({"preset": "static", "every": 10}, "model.sparsity.every must come with a ramp or swaps, got 10 without"),
    ({"preset": "static", "keep": "taylor"}, "model.sparsity.keep must come with a ramp or swaps"),
    ({"preset": "static", "pool": "model"}, "model.sparsity.pool must come with a ramp or swaps"),
    ({"preset": "gmp", "grace": 2}, "model.sparsity.grace must come with swaps, got 2 without"),
    ({"preset": "gmp", "batches": 4}, "model.sparsity.batches must come with swaps with grow = 'gradient', got 4 without"),
    ({"preset": "set", "batches": 4}, "model.sparsity.batches must come with swaps with grow = 'gradient'"),
    ({"preset": "set", "period": 10}, "model.sparsity.period must come with swap = 'cosine', got 10 without"),
    ({"preset": "rigl", "drift_rise": 0.1}, "model.sparsity.drift_rise must come with after = 'rearm', got 0.1 without"),
    ({"preset": "dsl", "floor": 0.5}, "model.sparsity.floor must come with pool = 'model', got 0.5 without"),
    ({"preset": "dsl_online", "init_scale": True}, "model.sparsity.init_scale must come with no ramp, got True without"),
    ({"preset": "gmp", "pool": "model", "split": "erk"}, "model.sparsity.split must come with no ramp under pool = 'model'"),
    ({"preset": "nm", "split": "erk"}, "model.sparsity.split must come with a pool other than 'N:M', got 'erk' without"),
    ({"preset": "nm", "pool": "4:2"}, "model.sparsity.pool must be 'N:M' with N < M, got '4:2'"),
    ({"preset": "nm", "density": 0.2}, "model.sparsity.density must be N / M of pool = '2:4', got 0.2"),
    ({"preset": "nm", "atom": "neuron"}, "model.sparsity.atom must be '16x1' or '1x1' with a pool 'N:M', got 'neuron'"),
    ({"preset": "gmp", "ramp": (100, 100)}, "model.sparsity.ramp must start before it ends, got (100, 100)"),
    ({"preset": "set", "swap_max": 0.0}, "model.sparsity.swap_max must be above 0 unless swap = 'none', got 0.0"),
    ({"preset": "dsl", "swap_min": 0.6}, "model.sparsity.swap_min must be at most swap_max, got 0.6"),
    ({"preset": "dsl_online", "swap_min": 0.0}, "model.sparsity.swap_min must be above 0 unless after = 'stop', got 0.0"),
    ({"preset": "set", "grow": "momentum"}, "model.sparsity.newborn must be 'warm' with grow = 'momentum', got 'reset'"),
    ({"preset": "dsl", "pool": "model", "cap": 0.4}, "model.sparsity.cap must be at least density, got 0.4"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_broken_rule_is_told_with_field_value_and_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("preset", get_args(Preset))
def test_every_preset_is_there_and_has_all_that_it_fills(preset: Preset) -> None:
    config = SparsityConfig(preset=preset)
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert (config.density == 1) == (preset == "dense")


def test_the_default_is_dense() -> None:
    assert SparsityConfig() == SparsityConfig(preset="dense") and SparsityConfig().density == 1


def test_dsl_is_as_published() -> None:
    config = SparsityConfig(preset="dsl")
    assert (config.pool, config.atom, config.split, config.ramp, config.density) == ("layer", "1x1", "uniform", None, 0.5)
    assert (config.keep, config.grow, config.batches, config.newborn, config.grace) == ("magnitude", "gradient", 1, "warm", 0)
    assert (config.swap, config.swap_max, config.swap_min, config.after) == ("cosine", 0.5, 0.005, "stop")


def test_what_is_given_overrides_the_preset_and_silences_what_it_leaves_without_effect() -> None:
    config = SparsityConfig(preset="dsl", swap="constant", swap_max=0.1, density=0.1)
    assert (config.swap_max, config.density, config.newborn) == (0.1, 0.1, "warm")
    assert (config.period, config.after) == (5000, "rearm")  # as the fields have them, not as the preset
    assert SparsityConfig(preset="dsl_online", swap="none", ramp=None).keep == "magnitude"


def test_the_density_of_runs_is_theirs() -> None:
    assert (SparsityConfig(preset="nm", pool="1:4").density, SparsityConfig(preset="nm").run) == (0.25, (2, 4))
    assert (SparsityConfig(preset="dsl", pool="1:3").density, SparsityConfig(preset="dsl").run) == (1 / 3, None)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.sampled_from(get_args(Preset)),
    "density": st.sampled_from([0.1, 0.5, 1.0]),
    "atom": st.sampled_from(["16x1", "1x1", "neuron"]),
    "pool": st.sampled_from(["layer", "model", "1:2", "2:4"]),
    "split": st.sampled_from(["uniform", "erk"]),
    "ramp": st.sampled_from([None, (0, 10), (5, 5)]),
    "init_scale": st.booleans(),
    "swap": st.sampled_from(["none", "constant", "cosine"]),
    "swap_max": st.sampled_from([0.0, 0.3, 1.0]),
    "swap_min": st.sampled_from([0.0, 0.03]),
    "after": st.sampled_from(["stop", "hold", "rearm"]),
    "keep": st.sampled_from(["magnitude", "taylor"]),
    "grow": st.sampled_from(["gradient", "random", "momentum"]),
    "batches": st.integers(1, 3),
    "grace": st.integers(0, 2),
    "floor": st.sampled_from([0.0, 0.2]),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_accepted_says_what_was_given_and_reads_back_the_same(settings: dict[str, Any]) -> None:
    try:
        config = parse(**settings)
    except ValidationError:
        return
    assert {name: getattr(config, name) for name in settings} == settings
    assert parse(**config.model_dump()) == config
