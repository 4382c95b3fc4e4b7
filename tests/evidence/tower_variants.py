"""The towers that are compared, and how each is made sparse.

A sparse tower is said by the weights that live in it, as a share of those of the dense 256-128-64: others than that are given the width
or the density at which they have as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

BASE = (256, 128, 64)
# Of the one layer of a wide sparse tower. The first was the best on seeds 100 to 105, which no claim here rests on.
WIDTHS = (256, 512)
# Rates for one layer, as multiples of 1e-3, which is best for the dense BASE.
RATES = (1, 4, 8)
BEST_RATE = 4
# From dense, the ramp over these shares of the pass; then up to a twentieth of the atoms is exchanged every 25 steps, for ever.
EVERY = 25
ONLINE = {"preset": "dsl_online", "ramp": (0.05, 0.2), "cosine_steps": 0.2, "update_interval": EVERY}
_GMP = {"preset": "gmp", "ramp": (0.05, 0.2), "update_interval": EVERY}
_SET = {"preset": "set", "update_interval": EVERY}
# As published: rigl's swaps stop at three quarters of the run, those of dsl go on to its end, ever fewer.
_RIGL = {"preset": "rigl", "update_interval": EVERY, "cosine_steps": 0.75}
_DSL = {"preset": "dsl", "update_interval": EVERY, "cosine_steps": 1.0}
_STATIC = {"preset": "static", "atom": "16x1"}

Kind = Literal["tower", "small1", "small3", "wide"]


@dataclass(frozen=True)
class TowerVariant:
    """One tower. Kinds:

    - "tower": of `sizes`; sparse layers have the density `share`.
    - "small1", "small3": dense, one layer of w or three of w, w / 2, w / 4, with `share` of the weights of the dense BASE.
    - "wide": one sparse layer of the width in `sizes`, with `share` of the weights of the dense BASE.

    `sparsity` holds fields of SparsityConfig, but ramp and period as shares of the steps of a pass.
    """

    group: str
    label: str
    kind: Kind = "tower"
    share: float = 1.0
    sizes: tuple[int, ...] = BASE
    sparsity: Mapping[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "bf16"] = "fp32"
    lr: float = 1e-3  # of all that is dense
    drifts: bool = False

    @property
    def name(self) -> str:
        """Return what no other variant is called."""
        return f"{self.group}, {self.label}"

    def model(self, num_inputs: int, num_steps: int) -> dict[str, Any]:
        """Return the settings of the model for a tower of so many inputs and a pass of so many steps."""
        wanted = self.share * num_weights(num_inputs, BASE)
        sizes, density = self.sizes, self.share
        if self.kind == "small1":
            sizes = (round(wanted / num_inputs),)
        elif self.kind == "small3":
            sizes = _three_layers(num_inputs, wanted)
        elif self.kind == "wide":
            density = wanted / (sizes[0] * num_inputs)
        model: dict[str, Any] = {"tower": list(sizes), "precision": self.precision}
        if self.sparsity:
            settings = dict(self.sparsity) | {"density": density}
            if "ramp" in settings:
                settings["ramp"] = [max(1, round(part * num_steps)) for part in settings["ramp"]]
            if "cosine_steps" in settings:
                settings["cosine_steps"] = round(settings["cosine_steps"] * num_steps)
            model["sparsity"] = settings
        return model


def num_weights(num_inputs: int, sizes: tuple[int, ...]) -> int:
    """Return the weights of a dense tower, biases not counted."""
    return sum(inputs * outputs for inputs, outputs in pairwise((num_inputs, *sizes)))


def _three_layers(num_inputs: int, wanted: float) -> tuple[int, ...]:
    """Return w, w / 2, w / 4 with about the wanted number of weights."""
    return min(
        ((width, width // 2, width // 4) for width in range(4, BASE[0] + 1)),
        key=lambda sizes: abs(num_weights(num_inputs, sizes) - wanted),
    )


def _small(share: float) -> tuple[TowerVariant, ...]:
    label = f"{share:.0%} of the weights"
    return (
        *_at(RATES, TowerVariant("small dense, one layer", label, "small1", share)),
        TowerVariant("small dense, three layers", label, "small3", share),
    )


def _at(rates: Sequence[int], variant: TowerVariant) -> tuple[TowerVariant, ...]:
    """Return the variant at each of the rates."""
    return tuple(variant if rate == 1 else replace(variant, label=f"{variant.label}, rate x{rate}", lr=1e-3 * rate) for rate in rates)


def _sparse(group: str, sparsity: Mapping[str, Any], share: float, atom: str) -> TowerVariant:
    return TowerVariant(group, f"{1 - share:.0%} {atom}", "tower", share, sparsity={**sparsity, "atom": atom})


def _wide(share: float, width: int) -> TowerVariant:
    """Return one sparse layer whose atoms learn at twice the rate of the biases."""
    sparsity = {**ONLINE, "atom": "16x1", "lr_scale": 2.0}
    label = f"{share:.0%} of the weights, rate x{BEST_RATE}, of atoms x{2 * BEST_RATE}"
    return TowerVariant(f"dsl_online, one layer of {width}", label, "wide", share, (width,), sparsity, lr=1e-3 * BEST_RATE)


DENSE = TowerVariant("dense", "256-128-64")
SHARES = (0.2, 0.1)
WIDE_SHARES = (*SHARES, 0.05)
# The first ones are of one layer, at the RATES; the last is of three.
SMALL = {share: _small(share) for share in WIDE_SHARES}
AT = {share: _sparse("dsl_online", ONLINE, share, "16x1") for share in SHARES}
# The first is the one that claims are made for.
WIDES = {share: tuple(_wide(share, width) for width in WIDTHS) for share in WIDE_SHARES}
# One layer, dense, wider and wider: what the width of a dense tower buys, and at what time.
LADDER = tuple(
    variant for width in (128, 160, 256) for variant in _at((1, BEST_RATE), TowerVariant("dense, one layer", str(width), sizes=(width,)))
)
_OF_SHARES = tuple(variant for share in WIDE_SHARES for variant in (*SMALL[share], *WIDES[share]))
CLAIMS = (DENSE, *AT.values(), *_OF_SHARES, *LADDER)

CONTROLS = tuple(
    _sparse(group, sparsity, share, atom)
    for share, extra in ((0.2, ()), (0.1, (("SET", _SET, "16x1"), ("RigL", _RIGL, "16x1"))))
    for group, sparsity, atom in (
        ("static", _STATIC, "16x1"),
        ("SET", _SET, "1x1"),
        ("RigL", _RIGL, "1x1"),
        ("dsl as published", _DSL, "1x1"),
        ("gmp", _GMP, "16x1"),
        ("dsl_online", ONLINE, "1x1"),
        *extra,
    )
)
BF16 = (
    TowerVariant("dense, bf16", "256-128-64", precision="bf16"),
    TowerVariant("dsl_online, bf16", "90% 16x1", "tower", 0.1, sparsity={**ONLINE, "atom": "16x1"}, precision="bf16"),
)


def _drifting(group: str, label: str, **sparsity: Any) -> TowerVariant:
    share = 0.1 if sparsity else 1.0
    return TowerVariant(group, label, "tower", share, (256,), sparsity, drifts=True)


# The published schedules get half of the pass as their run: they have ended where the drift begins.
DRIFT_DENSE = _drifting("dense under drift", "256")
DRIFT_ENDED = _drifting("dsl as published, ended", "90% 1x1", **_DSL | {"cosine_steps": 0.5})
# What a drift asks for: a cosine that the drift test starts anew, swaps more often, newborns that take long first steps.
DRIFT_ONLINE = _drifting(
    "dsl_online",
    "90% 16x1, every 10, rearmed, reset",
    **ONLINE
    | {
        "drop_fraction_schedule": "cosine",
        "drop_fraction_max": 0.3,
        "drop_fraction_min": 0.1,
        "cosine_steps": 0.2,
        "update_interval": 10,
        "newborn": "reset",
    },
)
DRIFT = (
    DRIFT_DENSE,
    _drifting("static under drift", "90% 16x1", **_STATIC),
    DRIFT_ENDED,
    _drifting(
        "dsl_online, but ended",
        "90% 16x1",
        **ONLINE | {"drop_fraction_schedule": "cosine", "drop_fraction_min": 0.0, "cosine_steps": 0.5, "on_cosine_end": "stop"},
    ),
    _drifting("dsl_online", "90% 16x1, constant", **ONLINE),
    DRIFT_ONLINE,
)
