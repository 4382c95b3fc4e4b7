"""Settings of sparse towers. A preset only fills arguments, and an argument that is given overrides it.

What the words mean, and what executes them, stands in `monolith_py.tower`: `topology` (pool, keep, grow, grace, floor, cap),
`budget` (density, atom, split), `schedule` (ramp, swap) and `drift` (rearm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, Positive, Settings

Preset = Literal["dense", "static", "erk", "set", "rigl", "dsl", "dsl_online", "gmp", "nm"]
Atom = Literal["16x1", "1x1", "neuron"]
Split = Literal["uniform", "erk"]
SwapShare = Annotated[float, Field(ge=0, le=1)]

# What each preset fills; all the rest is as the fields of `SparsityConfig` have it.
#   static, erk   a random topology that stays: the honest controls
#   set           Mocanu et al. 2018: drop the least, grow at random
#   rigl          Evci et al. 2020: drop the least, grow by gradient; period is 75 % of the run's steps, then the topology stays
#   dsl           Wang et al. 2024, as published, but for three things: the budget is exact (there a Bernoulli draw meets it only
#                 about), equal weights are told apart by place (there all at the threshold go), and each block keeps its best atom
#                 (there an output may lose all of its own). period is all of the run's steps
#   dsl_online    dense first, then swaps that never end and start anew on drift
#   gmp           Zhu and Gupta 2017: prune a dense start, grow nothing
#   nm            N of every M consecutive inputs, pruned from a dense start. Without the dense shadow weights of SR-STE (Zhou et
#                 al. 2021): what was dropped is gone, and only swaps bring it back
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "static": {"density": 0.2},
    "erk": {"density": 0.2, "split": "erk"},
    "set": {"density": 0.2, "atom": "1x1", "swap": "constant", "grow": "random", "newborn": "reset"},
    "rigl": {
        "density": 0.2,
        "atom": "1x1",
        "split": "erk",
        "swap": "cosine",
        "swap_min": 0.0,
        "period": 75_000,
        "after": "stop",
        "newborn": "reset",
    },
    "dsl": {
        "density": 0.5,
        "atom": "1x1",
        "swap": "cosine",
        "swap_max": 0.5,
        "swap_min": 0.005,
        "period": 100_000,
        "after": "stop",
        "newborn": "warm",
    },
    "dsl_online": {"density": 0.2, "ramp": (500, 5000), "swap": "cosine", "keep": "taylor", "batches": 2},
    "gmp": {"density": 0.2, "ramp": (500, 5000)},
    "nm": {"pool": "2:4", "atom": "1x1", "ramp": (500, 5000)},
}


class SparsityConfig(Settings):
    """Which weights of a tower live, and how that changes. Steps are optimizer steps.

    >>> SparsityConfig(preset="dsl_online", density=0.1).keep
    'taylor'
    """

    preset: Preset = "dense"
    # Share of the atoms that live; N / M where the pool is "N:M".
    density: Annotated[float, Field(gt=0, le=1)] = 1.0
    # What lives or dies together: outputs x inputs, or all the weights of one output.
    atom: Atom = "16x1"
    # Inside what the budget holds: each layer, all layers, or N of every run of M consecutive inputs ("2:4").
    pool: Annotated[str, Field(pattern=r"^(layer|model|[1-9][0-9]{0,3}:[1-9][0-9]{0,3})$")] = "layer"
    # Density of the layers: the same for all, or ~ (in + out) / (in * out).
    split: Split = "uniform"
    # First and last step of the way from dense to the density; none starts sparse.
    ramp: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    # Multiply the first weights by density ** -0.5, so that outputs vary as those of a dense layer.
    init_scale: bool = False
    # Steps between changes of the topology.
    every: Count = 100
    # Share of the live atoms that a swap may exchange: none, always swap_max, or half a cosine from swap_max to swap_min.
    swap: Literal["none", "constant", "cosine"] = "none"
    swap_max: SwapShare = 0.3
    swap_min: SwapShare = 0.03
    # Steps of the cosine, and what follows: no swaps, swaps of swap_min, or these until the drift test starts the cosine anew.
    period: Count = 5000
    after: Literal["stop", "hold", "rearm"] = "rearm"
    # How far the progressive loss must rise to be drift, as a share of it.
    drift_rise: Positive = 0.08
    # Score by which atoms stay: sum of |weight|, or |sum of weight * gradient|, which all batches since the last swap add to. By magnitude
    # a newborn of many weights is always the least and goes before it has learnt (unless it has grace), so larger atoms want Taylor.
    keep: Literal["magnitude", "taylor"] = "magnitude"
    # Score by which atoms are born: sum of |gradient|, chance, or sum of |first moment|, which needs moments of dead weights too.
    grow: Literal["gradient", "random", "momentum"] = "gradient"
    # Batches, the last before a swap, whose gradients are added up for the scores.
    batches: Count = 1
    # Moments of a newborn, whose weights are 0. count: 0, with a step count of its own for the bias correction. reset: 0 under the
    # layer's count, so Adam's first step is up to 3.2 rates long. seed: first 0, second the mean of the layer's live. warm: kept up
    # while it was dead, which needs the dense gradient at every step.
    newborn: Literal["count", "reset", "seed", "warm"] = "count"
    # Step size of the live atoms in units of the towers' own: what is left of a layer bears, and gains by, larger steps: SMET
    # (arXiv 2606.00888) divides by the density.
    lr_scale: Positive = 1.0
    # Swaps during which a newborn is not dropped.
    grace: Annotated[int, Field(ge=0)] = 0
    # Bounds of a layer where all share one pool: least share of what a uniform split would give it, and highest density.
    floor: SwapShare = 0.2
    cap: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def run(self) -> tuple[int, int] | None:
        """(N, M) where the pool is a run of M inputs that keeps N."""
        return _run_of(self.pool)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        """Add what the preset says of fields that are not given, as far as it has an effect beside them."""
        if not isinstance(given, Mapping):
            return given
        preset = given.get("preset", "dense")
        filled = {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else dict(given)
        run = _run_of(filled.get("pool"))
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
        for field, rule, holds in (
            ("pool", "be 'N:M' with N < M", self.run is None or self.run[0] < self.run[1]),
            ("density", "be below 1 unless preset = 'dense'", self.preset == "dense" or self.density < 1),
            ("density", f"be N / M of pool = {self.pool!r}", self.run is None or self.density == self.run[0] / self.run[1]),
            ("atom", "be '16x1' or '1x1' with a pool 'N:M'", self.run is None or self.atom != "neuron"),
            ("ramp", "start before it ends", self.ramp is None or self.ramp[0] < self.ramp[1]),
            ("swap_max", "be above 0 unless swap = 'none'", self.swap == "none" or self.swap_max > 0),
            ("swap_min", "be at most swap_max", self.swap != "cosine" or self.swap_min <= self.swap_max),
            ("swap_min", "be above 0 unless after = 'stop'", self.swap != "cosine" or self.after == "stop" or self.swap_min > 0),
            ("newborn", "be 'warm' with grow = 'momentum'", self.grow != "momentum" or self.newborn == "warm"),
            ("cap", "be at least density", self.pool != "model" or self.cap >= self.density),
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
    ramps, swaps = values["ramp"] is not None, values["swap"] != "none"
    cosine, shared, runs = values["swap"] == "cosine", values["pool"] == "model", _run_of(values["pool"]) is not None
    for needs, names, there in (
        ("a ramp or swaps", ("every", "keep"), ramps or swaps),
        ("a ramp or swaps", ("pool",), ramps or swaps or not shared),
        ("no ramp", ("init_scale",), not ramps),
        ("no ramp under pool = 'model'", ("split",), not (ramps and shared)),
        ("a pool other than 'N:M'", ("split",), not runs),
        ("swaps", ("swap_max", "grow", "newborn", "grace"), swaps),
        ("swap = 'cosine'", ("swap_min", "period", "after"), cosine),
        ("after = 'rearm'", ("drift_rise",), cosine and values["after"] == "rearm"),
        ("swaps with grow = 'gradient'", ("batches",), swaps and values["grow"] == "gradient"),
        ("pool = 'model'", ("floor", "cap"), shared),
    ):
        if not there:
            yield needs, names
