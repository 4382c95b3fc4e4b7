"""Schedules of a topology: density and drop fraction at a step. Pure functions; a step is one optimizer step."""

from __future__ import annotations

import math

from monolith_py.config.sparsity import SparsityConfig


def cubic_ramp(step: int, start: int, end: int, density: float) -> float:
    """Return the density at `step` on a cubic ramp from 1 at `start` to `density` at `end`: Zhu and Gupta 2017, equation 1.

    >>> [round(cubic_ramp(step, 10, 20, 0.2), 3) for step in (0, 10, 15, 20, 99)]
    [1.0, 1.0, 0.3, 0.2, 0.2]
    """
    if step >= end:
        return density
    left = 1 - max(0, step - start) / (end - start)
    return density + (1 - density) * left**3


def half_cosine(step: int, high: float, low: float, steps: int) -> float:
    """Return the value at `step` on half a cosine from `high` at 0 to `low` at `steps`; `low` afterwards.

    >>> [round(half_cosine(step, 0.5, 0.1, 4), 3) for step in (0, 2, 4, 99)]
    [0.5, 0.3, 0.1, 0.1]
    """
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))


def density_at(config: SparsityConfig, step: int) -> float:
    """Return the share of live atoms at `step`, counted from the start of the training."""
    return config.density if config.ramp is None else cubic_ramp(step, *config.ramp, config.density)


def drop_fraction_at(config: SparsityConfig, steps_since_armed: int) -> float:
    """Return the share of the live atoms that a swap may exchange.

    `steps_since_armed` counts from the start of the training, or from the last drift with on_cosine_end = 'rearm'. Only with
    on_cosine_end = 'stop' is the fraction 0 after the cosine.
    """
    if config.drop_fraction_schedule == "none":
        return 0.0
    if config.drop_fraction_schedule == "constant":
        return config.drop_fraction_max
    if config.on_cosine_end == "stop" and steps_since_armed >= config.cosine_steps:
        return 0.0
    return half_cosine(steps_since_armed, config.drop_fraction_max, config.drop_fraction_min, config.cosine_steps)


def is_due(config: SparsityConfig, step: int, steps_since_armed: int) -> bool:
    """Return whether the topology is updated after optimizer step `step`, counted from 1."""
    if step < 1 or step % config.update_interval:
        return False
    # The first update after the end of the ramp reaches the density.
    ramps = config.ramp is not None and config.ramp[0] < step < config.ramp[1] + config.update_interval
    return ramps or drop_fraction_at(config, steps_since_armed) > 0
