"""Settings of sparse towers: presets fill fields, given fields override, fields without an effect are refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from monolith_py.config.sparsity import PRESETS, Preset, SparsityConfig


def parse(**settings: Any) -> SparsityConfig:
    return SparsityConfig.model_validate(settings)


GROWS_AT_RANDOM = "grow_criterion must be 'random' with swaps of atom = 'neuron' (ReLU gives a dead neuron no gradient), got"
REFUSED = [
    ({"density": 0.0, "preset": "set"}, "Input should be greater than 0"),
    ({"density": 1.5, "preset": "set"}, "Input should be less than or equal to 1"),
    ({"density": float("nan"), "preset": "set"}, "Input should be"),
    ({"preset": "lottery"}, "Input should be 'dense', 'static'"),
    ({"preset": ["dsl"]}, "Input should be 'dense', 'static'"),
    ({"preset": "dsl", "atom": "4x4"}, "Input should be '16x1', '1x1' or 'neuron'"),
    ({"preset": "dsl", "scope": "tower"}, "String should match pattern"),
    ({"preset": "dsl", "scope": "0:4"}, "String should match pattern"),
    ({"preset": "dsl", "colour": 1}, "Extra inputs are not permitted"),
    ({"density": 0.2}, "model.sparsity.density must come with a preset other than 'dense', got 0.2 without"),
    (
        {"drop_fraction_schedule": "cosine"},
        "model.sparsity.drop_fraction_schedule must come with a preset other than 'dense', got 'cosine' without",
    ),
    ({"preset": "static", "density": 1.0}, "model.sparsity.density must be below 1 unless preset = 'dense', got 1.0"),
    ({"preset": "static", "grow_criterion": "random"}, "model.sparsity.grow_criterion must come with swaps, got 'random' without"),
    ({"preset": "static", "update_interval": 10}, "model.sparsity.update_interval must come with a ramp or swaps, got 10 without"),
    ({"preset": "static", "drop_criterion": "taylor"}, "model.sparsity.drop_criterion must come with a ramp or swaps"),
    ({"preset": "static", "scope": "model"}, "model.sparsity.scope must come with a ramp or swaps"),
    ({"preset": "gmp", "protect_swaps": 2}, "model.sparsity.protect_swaps must come with swaps, got 2 without"),
    (
        {"preset": "gmp", "score_batches": 4},
        "score_batches must come with swaps with grow_criterion = 'gradient', got 4 without",
    ),
    ({"preset": "set", "score_batches": 4}, "model.sparsity.score_batches must come with swaps with grow_criterion = 'gradient'"),
    ({"preset": "set", "cosine_steps": 10}, "model.sparsity.cosine_steps must come with drop_fraction_schedule = 'cosine', got 10 without"),
    ({"preset": "rigl", "drift_rise": 0.1}, "model.sparsity.drift_rise must come with on_cosine_end = 'rearm', got 0.1 without"),
    ({"preset": "dsl", "min_layer_share": 0.5}, "model.sparsity.min_layer_share must come with scope = 'model', got 0.5 without"),
    ({"preset": "dsl_online", "init_scale": True}, "model.sparsity.init_scale must come with no ramp, got True without"),
    (
        {"preset": "gmp", "scope": "model", "layer_density": "erk"},
        "model.sparsity.layer_density must come with no ramp under scope = 'model'",
    ),
    ({"preset": "nm", "layer_density": "erk"}, "model.sparsity.layer_density must come with a scope other than 'N:M', got 'erk' without"),
    ({"preset": "nm", "scope": "4:2"}, "model.sparsity.scope must be 'N:M' with N < M, got '4:2'"),
    ({"preset": "nm", "density": 0.2}, "model.sparsity.density must be N / M of scope = '2:4', got 0.2"),
    ({"preset": "nm", "atom": "neuron"}, "model.sparsity.atom must be '16x1' or '1x1' with a scope 'N:M', got 'neuron'"),
    *(
        (
            {"preset": preset, "atom": "neuron"},
            f"{GROWS_AT_RANDOM} 'gradient'",
        )
        for preset in ("rigl", "dsl", "dsl_online")
    ),
    (
        {"preset": "dsl", "atom": "neuron", "grow_criterion": "momentum"},
        f"{GROWS_AT_RANDOM} 'momentum'",
    ),
    ({"preset": "gmp", "ramp": (100, 100)}, "model.sparsity.ramp must start before it ends, got (100, 100)"),
    (
        {"preset": "set", "drop_fraction_max": 0.0},
        "drop_fraction_max must be above 0 unless drop_fraction_schedule = 'none', got 0.0",
    ),
    ({"preset": "dsl", "drop_fraction_min": 0.6}, "model.sparsity.drop_fraction_min must be at most drop_fraction_max, got 0.6"),
    (
        {"preset": "dsl_online", "drop_fraction_min": 0.0},
        "drop_fraction_min must be above 0 unless on_cosine_end = 'stop', got 0.0",
    ),
    (
        {"preset": "set", "grow_criterion": "momentum"},
        "newborn must be 'warm' with grow_criterion = 'momentum', got 'reset'",
    ),
    ({"preset": "dsl", "scope": "model", "max_layer_density": 0.4}, "model.sparsity.max_layer_density must be at least density, got 0.4"),
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
    assert (config.scope, config.atom, config.layer_density, config.ramp, config.density) == ("layer", "1x1", "uniform", None, 0.5)
    criteria = (config.drop_criterion, config.grow_criterion, config.score_batches, config.newborn, config.protect_swaps)
    assert criteria == (
        "magnitude",
        "gradient",
        1,
        "warm",
        0,
    )
    schedule = (config.drop_fraction_schedule, config.drop_fraction_max, config.drop_fraction_min, config.on_cosine_end)
    assert schedule == (
        "cosine",
        0.5,
        0.005,
        "stop",
    )


def test_what_is_given_overrides_the_preset_and_silences_what_it_leaves_without_effect() -> None:
    config = SparsityConfig(preset="dsl", drop_fraction_schedule="constant", drop_fraction_max=0.1, density=0.1)
    assert (config.drop_fraction_max, config.density, config.newborn) == (0.1, 0.1, "warm")
    assert (config.cosine_steps, config.on_cosine_end) == (5000, "rearm")  # as the fields have them, not as the preset
    assert SparsityConfig(preset="dsl_online", drop_fraction_schedule="none", ramp=None).drop_criterion == "magnitude"


def test_the_density_of_runs_is_theirs() -> None:
    assert (SparsityConfig(preset="nm", scope="1:4").density, SparsityConfig(preset="nm").run) == (0.25, (2, 4))
    assert (SparsityConfig(preset="dsl", scope="1:3").density, SparsityConfig(preset="dsl").run) == (1 / 3, None)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.sampled_from(get_args(Preset)),
    "density": st.sampled_from([0.1, 0.5, 1.0]),
    "atom": st.sampled_from(["16x1", "1x1", "neuron"]),
    "scope": st.sampled_from(["layer", "model", "1:2", "2:4"]),
    "layer_density": st.sampled_from(["uniform", "erk"]),
    "ramp": st.sampled_from([None, (0, 10), (5, 5)]),
    "init_scale": st.booleans(),
    "drop_fraction_schedule": st.sampled_from(["none", "constant", "cosine"]),
    "drop_fraction_max": st.sampled_from([0.0, 0.3, 1.0]),
    "drop_fraction_min": st.sampled_from([0.0, 0.03]),
    "on_cosine_end": st.sampled_from(["stop", "hold", "rearm"]),
    "drop_criterion": st.sampled_from(["magnitude", "taylor"]),
    "grow_criterion": st.sampled_from(["gradient", "random", "momentum"]),
    "score_batches": st.integers(1, 3),
    "protect_swaps": st.integers(0, 2),
    "min_layer_share": st.sampled_from([0.0, 0.2]),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_accepted_says_what_was_given_and_reads_back_the_same(settings: dict[str, Any]) -> None:
    try:
        config = parse(**settings)
    except ValidationError:
        return
    assert {name: getattr(config, name) for name in settings} == settings
    assert parse(**config.model_dump()) == config
