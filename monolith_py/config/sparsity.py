"""Settings of sparse towers. A preset fills fields that are not given; a given field overrides it.

`monolith_py.tower` executes them: `rule.topology` (drop_criterion, grow_criterion, protect_swaps, min_feature_share, min_layer_share,
max_layer_density), `rule.masks` (scope, min_agreement), `rule.density` (density, atom, layer_density), `rule.schedule` (ramp,
drop_fraction_schedule), `rule.drift` (rearm) and `rule.updater` (scores, keep_norm, lr_scale).
An atom is the unit that is live or dead as a whole. A swap drops live atoms and grows the same number of dead ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from monolith_py.config.fields import Count, Positive, Settings

Preset = Literal["dense", "static", "erk", "set", "rigl", "dsl", "dsl_online", "gmp", "nm"]
Atom = Literal["16x1", "1x1", "neuron"]
LayerDensity = Literal["uniform", "erk"]
Fraction = Annotated[float, Field(ge=0, le=1)]

# Fields that each preset fills; the others have the defaults of `SparsityConfig`.
#   dense         no sparsity
#   static, erk   a random topology that never changes, as a control
#   set           Mocanu et al. 2018: drop the smallest, grow at random
#   rigl          Evci et al. 2020: drop the smallest, grow by gradient; set cosine_steps to 75 % of the run's steps, then the topology
#                 is constant
#   dsl           Wang et al. 2024, with three differences: the density is exact (there a Bernoulli draw only approximates it), equal
#                 weights are ordered by place (there all at the threshold are dropped), each block keeps its best atom (there an output
#                 may lose all its atoms). Set cosine_steps to the run's steps. newborn = "warm" takes the dense gradient at every step:
#                 an epoch of MultVAE takes twice the time of a dense one, 3.4 times that of dsl_online
#   dsl_online    prune a dense start by magnitude with a floor for each feature; then swaps without end, of those atoms alone on whose
#                 gradient the batches agree: few while the stream is steady, many after a change
#   gmp           Zhu and Gupta 2017: prune a dense start, grow nothing
#   nm            N of every M consecutive inputs, pruned from a dense start; without the dense shadow weights of SR-STE (Zhou et al.
#                 2021), so that a dropped atom loses its weight
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
    "dsl_online": {
        "density": 0.2,
        "ramp": (500, 5000),
        "drop_fraction_schedule": "cosine",
        "drop_fraction_max": 0.2,
        "drop_fraction_min": 0.1,
        "score_batches": 4,
        "min_agreement": 0.75,
        "protect_swaps": 4,
        "min_feature_share": 0.5,
        "score_scale": "input_rms",
        "lr_scale": "density",
        "keep_norm": True,
    },
    "gmp": {"density": 0.2, "ramp": (500, 5000)},
    "nm": {"scope": "2:4", "atom": "1x1", "ramp": (500, 5000)},
}


class SparsityConfig(Settings):
    """Live weights of the tower and their changes. A step is an optimizer step.

    >>> SparsityConfig(preset="dsl_online", density=0.1).min_feature_share
    0.5
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

    # Named set of the fields below; "dense" turns sparsity off.
    preset: Preset = "dense"
    # Share of the atoms that are live; N / M under a scope "N:M".
    density: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Shape of an atom: outputs x inputs, or all weights of one output.
    atom: Atom = "16x1"
    # Group with a fixed number of live atoms: each layer, all layers together, or each run of M consecutive inputs with N live ("2:4").
    scope: Annotated[str, Field(pattern=r"^(layer|model|[1-9][0-9]{0,3}:[1-9][0-9]{0,3})$")] = "layer"
    # Density of each layer: equal, or proportional to (inputs + outputs) / (inputs * outputs).
    layer_density: LayerDensity = "uniform"
    # First and last step of a cubic ramp from dense to `density`; without a ramp the tower starts sparse.
    ramp: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    # Multiply the start weights by density ** -0.5, so that outputs have the variance of a dense layer's.
    init_scale: bool = False
    # Steps between updates of the topology.
    update_interval: Count = 100
    # Share of the live atoms that a swap may exchange: 0, drop_fraction_max, or half a cosine from drop_fraction_max to
    # drop_fraction_min in cosine_steps.
    drop_fraction_schedule: Literal["none", "constant", "cosine"] = "none"
    # Highest share of the live atoms in one swap.
    drop_fraction_max: Fraction = 0.3
    # Share of the live atoms in one swap at the end of the cosine.
    drop_fraction_min: Fraction = 0.03
    # Steps of the cosine.
    cosine_steps: Count = 5000
    # After the cosine: no swaps, swaps of drop_fraction_min, or swaps of drop_fraction_min until drift restarts the cosine.
    on_cosine_end: Literal["stop", "hold", "rearm"] = "rearm"
    # Least rise of the progressive loss that counts as drift, as a share of the loss.
    drift_rise: Positive = 0.08
    # Score of live atoms, the lowest are dropped: sum of |weight|, or |sum of weight * gradient| over all batches since the last swap. By
    # magnitude a newborn of many weights has the lowest score and is dropped before it learns (unless protected): larger atoms need Taylor.
    drop_criterion: Literal["magnitude", "taylor"] = "magnitude"
    # Score of dead atoms, the highest are grown: sum of |gradient|, random, or sum of |first moment|, which needs newborn = "warm".
    # Neurons must grow at random: ReLU gives a dead one no gradient.
    grow_criterion: Literal["gradient", "random", "momentum"] = "gradient"
    # Last batches before a swap whose gradients are summed for the scores.
    score_batches: Count = 1
    # Least agreement of those batches for an atom to grow: |sum of gradients|^2 / (batches * sum of |gradient|^2), 1 for equal gradients,
    # 1 / score_batches on average for noise. 0: all may grow. Swaps then rest while the stream is steady and return with a change.
    min_agreement: Fraction = 0.0
    # Moments of newborn atoms, whose weights are 0. count: 0, with a step count of their own for the bias correction. reset: 0 under the
    # layer's count, so that Adam's first step is up to 3.2 times the learning rate. seed: first moment 0, second the mean of the layer's
    # live atoms. warm: those of dead atoms are updated too, which needs the dense gradient at every step.
    newborn: Literal["count", "reset", "seed", "warm"] = "count"
    # Learning rate of live atoms as a multiple of optimizer.dense.lr; "density" is the present density ** -0.5. A step of fewer weights
    # moves the outputs less: sparse layers at the rate of dense ones learn a change of the stream too slowly. SMET (arXiv 2606.00888)
    # divides by the density.
    lr_scale: Positive | Literal["density"] = 1.0
    # Multiply the weights that a ramp leaves in an output block, so that their norm is that of before the pruning.
    keep_norm: bool = False
    # Swaps during which a newborn atom is not dropped.
    protect_swaps: Annotated[int, Field(ge=0)] = 0
    # Least number of live atoms of each feature in the first layer, as a share of its number at uniform density: a feature without atoms
    # gets no gradient from the tower, so that its rows never become worth one.
    min_feature_share: Fraction = 0.0
    # Divide gradient and Taylor scores of the first layer by the root mean square of the feature's inputs: gradients are proportional to
    # the inputs, so that features whose rows are still small have low scores.
    score_scale: Literal["none", "input_rms"] = "none"
    # With scope = "model", least number of live atoms of a layer, as a share of its number at uniform density.
    min_layer_share: Fraction = 0.2
    # With scope = "model", highest density of a layer.
    max_layer_density: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def run(self) -> tuple[int, int] | None:
        """Return (N, M) under a scope "N:M", else None."""
        return _run_of(self.scope)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        """Fill fields that are not given from the preset, as far as they have an effect beside the given ones."""
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
            (
                "grow_criterion",
                "be 'random' with swaps of atom = 'neuron' (ReLU gives a dead neuron no gradient)",
                schedule == "none" or self.atom != "neuron" or self.grow_criterion == "random",
            ),
            ("newborn", "be 'warm' with grow_criterion = 'momentum'", self.grow_criterion != "momentum" or self.newborn == "warm"),
            ("max_layer_density", "be at least density", self.scope != "model" or self.max_layer_density >= self.density),
        ):
            if not holds:
                raise ValueError(f"model.sparsity.{field} must {rule}, got {getattr(self, field)!r}")
        return self


def _run_of(scope: Any) -> tuple[int, int] | None:
    match = re.fullmatch(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", scope) if isinstance(scope, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _without_effect(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each missing condition and the fields without an effect under it. `values`: of all fields, possibly unchecked."""
    if values["preset"] == "dense":
        yield "a preset other than 'dense'", tuple(name for name in values if name != "preset" and name in SparsityConfig.model_fields)
        return
    ramps, swaps = values["ramp"] is not None, values["drop_fraction_schedule"] != "none"
    cosine, shared, runs = values["drop_fraction_schedule"] == "cosine", values["scope"] == "model", _run_of(values["scope"]) is not None
    single = values["atom"] != "neuron"
    for needs, names, there in (
        ("a ramp or swaps", ("update_interval", "drop_criterion"), ramps or swaps),
        ("a ramp or swaps", ("scope",), ramps or swaps or not shared),
        ("no ramp", ("init_scale",), not ramps),
        ("a ramp of atoms of single inputs", ("keep_norm",), ramps and single),
        ("no ramp under scope = 'model'", ("layer_density",), not (ramps and shared)),
        ("a scope other than 'N:M'", ("layer_density",), not runs),
        ("swaps", ("drop_fraction_max", "grow_criterion", "newborn", "protect_swaps"), swaps),
        ("drop_fraction_schedule = 'cosine'", ("drop_fraction_min", "cosine_steps", "on_cosine_end"), cosine),
        ("on_cosine_end = 'rearm'", ("drift_rise",), cosine and values["on_cosine_end"] == "rearm"),
        ("swaps with grow_criterion = 'gradient'", ("min_agreement",), swaps and values["grow_criterion"] == "gradient" and not runs),
        ("swaps with grow_criterion = 'gradient'", ("score_batches",), swaps and values["grow_criterion"] == "gradient"),
        ("scope = 'model'", ("min_layer_share", "max_layer_density"), shared),
        ("a ramp or swaps of atoms of single inputs", ("min_feature_share", "score_scale"), (ramps or swaps) and single and not runs),
        (
            "Taylor scores, or swaps with grow_criterion = 'gradient'",
            ("score_scale",),
            values["drop_criterion"] == "taylor" or (swaps and values["grow_criterion"] == "gradient"),
        ),
    ):
        if not there:
            yield needs, names
