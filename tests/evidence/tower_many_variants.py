"""The towers that are compared on every stream, by name."""

from __future__ import annotations

from typing import Any

from tower_variants import EVERY, TowerVariant

SHARES = {80: 0.2, 90: 0.1}
# The preset, with a ramp and a cosine in proportion to the pass; nothing else is set.
PRESET: dict[str, Any] = {"preset": "dsl_online", "ramp": (0.05, 0.2), "cosine_steps": 0.2, "update_interval": EVERY}
SPARSE: dict[str, dict[str, Any]] = {
    "dsl_online": PRESET,
    "gmp": {"preset": "gmp", "ramp": (0.05, 0.2), "update_interval": EVERY},
    "static": {"preset": "static"},
    # Of single weights, as published.
    "SET": {"preset": "set", "update_interval": EVERY},
    "RigL": {"preset": "rigl", "update_interval": EVERY, "cosine_steps": 0.75},
}
DENSE = "dense"


def _variants() -> dict[str, TowerVariant]:
    found = {DENSE: TowerVariant(DENSE, "256-128-64")}
    for percent, share in SHARES.items():
        for rate in (1, 4):
            name = f"small dense x{rate} {percent}"
            found[name] = TowerVariant("small dense", name, "small1", share, lr=1e-3 * rate)
        for method, settings in SPARSE.items():
            name = f"{method} {percent}"
            found[name] = TowerVariant(method, name, "tower", share, sparsity=settings)
    found["dense, one layer of 128"] = TowerVariant("dense", "128", sizes=(128,))
    return found


VARIANTS = _variants()


def small_of(percent: int) -> tuple[str, ...]:
    """Return the small dense towers with as many weights as the sparse ones have live."""
    return tuple(name for name in VARIANTS if name.startswith("small dense") and name.endswith(f" {percent}"))


def dense_ones() -> tuple[str, ...]:
    """Return all dense towers."""
    return tuple(name for name, variant in VARIANTS.items() if not variant.sparsity)
