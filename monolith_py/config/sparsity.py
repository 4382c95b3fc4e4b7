"""Settings of sparse towers. A preset only fills arguments, and an argument that is given overrides it.

What the words mean, and what executes them, stands in `monolith_py.tower`: `rule.topology` (scope, drop_criterion,
grow_criterion, protect_swaps, min_layer_share, max_layer_density), `rule.density` (density, atom, layer_density), `rule.schedule`
(ramp, drop_fraction_schedule) and `rule.drift` (rearm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, Positive, Settings

Preset = Literal["dense", "static", "erk", "set", "rigl", "dsl", "dsl_online", "gmp", "nm"]
Atom = Literal["16x1", "1x1", "neuron"]
Split = Literal["uniform", "erk"]
SwapShare = Annotated[float, Field(ge=0, le=1)]

# What each preset fills; all the rest is as the fields of `SparsityConfig` have it.
#   static, erk   a random topology that stays: the honest controls
#   set           Mocanu et al. 2018: drop the least, grow at random
#   rigl          Evci et al. 2020: drop the least, grow by gradient; cosine_steps is 75 % of the run's steps, then the topology stays
#   dsl           Wang et al. 2024, as published, but for three things: the budget is exact (there a Bernoulli draw meets it only
#                 about), equal weights are told apart by place (there all at the threshold go), and each block keeps its best atom
#                 (there an output may lose all of its own). cosine_steps is all of the run's steps
#   dsl_online    dense first, then swaps that never end and start anew on drift
#   gmp           Zhu and Gupta 2017: prune a dense start, grow nothing
#   nm            N of every M consecutive inputs, pruned from a dense start. Without the dense shadow weights of SR-STE (Zhou et
#                 al. 2021): what was dropped is gone, and only swaps bring it back
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "static": {"density": 0.2},
    "erk": {"density": 0.2, "layer_density": "erk"},
    "set": {"density": 0.2, "atom": "1x1", "drop_fraction_schedule": "constant", "grow_criterion": "random", "newborn": "reset"},
    "rigl": {
        "density": 0.2,
        "atom": "1x1",
        "layer_density": "erk",
        "drop_fraction_schedule": "cosine",
        "drop_fraction_min": 0.0,
        "cosine_steps": 75_000,
        "on_cosine_end": "stop",
        "newborn": "reset",
    },
    "dsl": {
        "density": 0.5,
        "atom": "1x1",
        "drop_fraction_schedule": "cosine",
        "drop_fraction_max": 0.5,
        "drop_fraction_min": 0.005,
        "cosine_steps": 100_000,
        "on_cosine_end": "stop",
        "newborn": "warm",
    },
    "dsl_online": {"density": 0.2, "ramp": (500, 5000), "drop_fraction_schedule": "cosine", "drop_criterion": "taylor", "score_batches": 2},
    "gmp": {"density": 0.2, "ramp": (500, 5000)},
    "nm": {"scope": "2:4", "atom": "1x1", "ramp": (500, 5000)},
}


class SparsityConfig(Settings):
    """Which weights of a tower live, and how that changes. Steps are optimizer steps.

    >>> SparsityConfig(preset="dsl_online", density=0.1).drop_criterion
    'taylor'
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "every": "update_interval",
        "period": "cosine_steps",
        "after": "on_cosine_end",
        "keep": "drop_criterion",
        "grow": "grow_criterion",
        "batches": "score_batches",
        "grace": "protect_swaps",
        "pool": "scope",
        "split": "layer_density",
        "floor": "min_layer_share",
        "cap": "max_layer_density",
        "swap": "drop_fraction_schedule",
        "swap_max": "drop_fraction_max",
        "swap_min": "drop_fraction_min",
    }

    preset: Preset = "dense"
    # Share of the atoms that live; N / M where the pool is "N:M".
    density: Annotated[float, Field(gt=0, le=1)] = 1.0
    # What lives or dies together: outputs x inputs, or all the weights of one output.
    atom: Atom = "16x1"
    # Inside what the budget holds: each layer, all layers, or N of every run of M consecutive inputs ("2:4").
    scope: Annotated[str, Field(pattern=r"^(layer|model|[1-9][0-9]{0,3}:[1-9][0-9]{0,3})$")] = "layer"
    # Density of the layers: the same for all, or ~ (in + out) / (in * out).
    layer_density: Split = "uniform"
    # First and last step of the way from dense to the density; none starts sparse.
    ramp: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    # Multiply the first weights by density ** -0.5, so that outputs vary as those of a dense layer.
    init_scale: bool = False
    # Steps between changes of the topology.
    update_interval: Count = 100
    # Share of the live atoms that a swap may exchange: none, always drop_fraction_max, or half a
    # cosine from drop_fraction_max to drop_fraction_min.
    drop_fraction_schedule: Literal["none", "constant", "cosine"] = "none"
    drop_fraction_max: SwapShare = 0.3
    drop_fraction_min: SwapShare = 0.03
    # Steps of the cosine, and what follows: no swaps, swaps of drop_fraction_min, or these until the drift test starts the cosine anew.
    cosine_steps: Count = 5000
    on_cosine_end: Literal["stop", "hold", "rearm"] = "rearm"
    # How far the progressive loss must rise to be drift, as a share of it.
    drift_rise: Positive = 0.08
    # Score by which atoms stay: sum of |weight|, or |sum of weight * gradient|, which all batches since the last swap add to. By magnitude
    # a newborn of many weights is always the least and goes before it has learnt (unless it has grace), so larger atoms want Taylor.
    drop_criterion: Literal["magnitude", "taylor"] = "magnitude"
    # Score by which atoms are born: sum of |gradient|, chance, or sum of |first moment|, which needs moments of dead weights too.
    grow_criterion: Literal["gradient", "random", "momentum"] = "gradient"
    # Batches, the last before a swap, whose gradients are added up for the scores.
    score_batches: Count = 1
    # Moments of a newborn, whose weights are 0. count: 0, with a step count of its own for the bias correction. reset: 0 under the
    # layer's count, so Adam's first step is up to 3.2 rates long. seed: first 0, second the mean of the layer's live. warm: kept up
    # while it was dead, which needs the dense gradient at every step.
    newborn: Literal["count", "reset", "seed", "warm"] = "count"
    # Step size of the live atoms in units of the towers' own: what is left of a layer bears, and gains by, larger steps: SMET
    # (arXiv 2606.00888) divides by the density.
    lr_scale: Positive = 1.0
    # TopologyUpdater during which a newborn is not dropped.
    protect_swaps: Annotated[int, Field(ge=0)] = 0
    # Bounds of a layer where all share one pool: least share of what a uniform split would give it, and highest density.
    min_layer_share: SwapShare = 0.2
    max_layer_density: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def run(self) -> tuple[int, int] | None:
        """(N, M) where the pool is a run of M inputs that keeps N."""
        return _run_of(self.scope)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        """Add what the preset says of fields that are not given, as far as it has an effect beside them."""
        if not isinstance(given, Mapping):
            return given
        preset = given.get("preset", "dense")
        filled = {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else dict(given)
        run = _run_of(filled.get("scope"))
        if run and run[0] < run[1] and "density" not in given:
            filled["density"] = run[0] / run[1]
        values = {name: field.default for name, field in cls.model_fields.items()} | filled
        idle = {name for _, names in _without_effect(values) for name in names} - given.keys()
        return {name: value for name, value in filled.items() if name not in idle}

    @model_validator(mode="after")
    def _check_what_has_no_effect(self) -> SparsityConfig:
        for needs, names in _without_effect(self.__dict__):
            for name in names:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"model.sparsity.{name} must come with {needs}, got {getattr(self, name)!r} without")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> SparsityConfig:
        schedule, lowest, highest = self.drop_fraction_schedule, self.drop_fraction_min, self.drop_fraction_max
        for field, rule, holds in (
            ("scope", "be 'N:M' with N < M", self.run is None or self.run[0] < self.run[1]),
            ("density", "be below 1 unless preset = 'dense'", self.preset == "dense" or self.density < 1),
            ("density", f"be N / M of scope = {self.scope!r}", self.run is None or self.density == self.run[0] / self.run[1]),
            ("atom", "be '16x1' or '1x1' with a scope 'N:M'", self.run is None or self.atom != "neuron"),
            ("ramp", "start before it ends", self.ramp is None or self.ramp[0] < self.ramp[1]),
            (
                "drop_fraction_max",
                "be above 0 unless drop_fraction_schedule = 'none'",
                schedule == "none" or highest > 0,
            ),
            (
                "drop_fraction_min",
                "be at most drop_fraction_max",
                schedule != "cosine" or lowest <= highest,
            ),
            (
                "drop_fraction_min",
                "be above 0 unless on_cosine_end = 'stop'",
                schedule != "cosine" or self.on_cosine_end == "stop" or lowest > 0,
            ),
            ("newborn", "be 'warm' with grow_criterion = 'momentum'", self.grow_criterion != "momentum" or self.newborn == "warm"),
            ("max_layer_density", "be at least density", self.scope != "model" or self.max_layer_density >= self.density),
        ):
            if not holds:
                raise ValueError(f"model.sparsity.{field} must {rule}, got {getattr(self, field)!r}")
        return self


def _run_of(pool: Any) -> tuple[int, int] | None:
    match = re.fullmatch(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", pool) if isinstance(pool, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _without_effect(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is missing, and the fields that have no effect without it. `values`: of all fields, maybe not yet checked."""
    if values["preset"] == "dense":
        yield "a preset other than 'dense'", tuple(name for name in values if name != "preset" and name in SparsityConfig.model_fields)
        return
    ramps, swaps = values["ramp"] is not None, values["drop_fraction_schedule"] != "none"
    cosine, shared, runs = values["drop_fraction_schedule"] == "cosine", values["scope"] == "model", _run_of(values["scope"]) is not None
    for needs, names, there in (
        ("a ramp or swaps", ("update_interval", "drop_criterion"), ramps or swaps),
        ("a ramp or swaps", ("scope",), ramps or swaps or not shared),
        ("no ramp", ("init_scale",), not ramps),
        ("no ramp under scope = 'model'", ("layer_density",), not (ramps and shared)),
        ("a scope other than 'N:M'", ("layer_density",), not runs),
        ("swaps", ("drop_fraction_max", "grow_criterion", "newborn", "protect_swaps"), swaps),
        ("drop_fraction_schedule = 'cosine'", ("drop_fraction_min", "cosine_steps", "on_cosine_end"), cosine),
        ("on_cosine_end = 'rearm'", ("drift_rise",), cosine and values["on_cosine_end"] == "rearm"),
        ("swaps with grow_criterion = 'gradient'", ("score_batches",), swaps and values["grow_criterion"] == "gradient"),
        ("scope = 'model'", ("min_layer_share", "max_layer_density"), shared),
    ):
        if not there:
            yield needs, names
