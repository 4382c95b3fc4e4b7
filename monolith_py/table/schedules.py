"""Learning-rate schedules. A step is one call of `EmbeddingTable.update` or one backward of `EmbeddingBags`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from monolith_py.config import ScheduleConfig
from monolith_py.table.arguments import number, whole


class Schedule(Protocol):
    """A function from step to learning rate."""

    def __call__(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        ...


def _check(steps: int, least_steps: int, **rates: float) -> None:
    """Check the length of a schedule, and its rates and factors.

    Raises:
        ValueError: `steps` is below `least_steps`, or a rate is negative or not finite.
    """
    if whole("steps", steps) < least_steps:
        raise ValueError(f"steps must be >= {least_steps}, got {steps!r}")
    for name, value in rates.items():
        if not 0 <= number(name, value) < math.inf:
            raise ValueError(f"{name} must be >= 0 and finite, got {value!r}")


@dataclass(frozen=True)
class Warmup:
    """Linear increase from 0 to `lr` in `steps` (Goyal et al. 2017, section 2.2), then the schedule `after`, its step 0 being the next.

    >>> [Warmup(0.1, steps=4)(step) for step in (0, 1, 3, 99)]
    [0.025, 0.05, 0.1, 0.1]
    """

    lr: float
    steps: int
    after: Schedule | None = None

    def __post_init__(self) -> None:
        _check(self.steps, 0, lr=self.lr)

    def __call__(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        if step < self.steps:
            return self.lr * (step + 1) / self.steps
        return self.after(step - self.steps) if self.after else self.lr


@dataclass(frozen=True)
class PolynomialDecay:
    """Decay from `lr` to `end` in `steps`, as (1 - step / steps) ** power; constant afterwards.

    >>> [round(PolynomialDecay(0.1, end=0.02, steps=4)(step), 3) for step in (0, 2, 4, 99)]
    [0.1, 0.06, 0.02, 0.02]
    """

    lr: float
    steps: int
    end: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        _check(self.steps, 1, lr=self.lr, end=self.end, power=self.power)

    def __call__(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        left = 1 - min(step, self.steps) / self.steps
        return float(self.end + (self.lr - self.end) * left**self.power)


@dataclass(frozen=True)
class CosineDecay:
    """Decay from `lr` to `end` in `steps` along half a cosine (Loshchilov and Hutter 2017, equation 5, no restarts); constant afterwards.

    >>> [round(CosineDecay(0.1, steps=4)(step), 3) for step in (0, 2, 4, 99)]
    [0.1, 0.05, 0.0, 0.0]
    """

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self.steps, 1, lr=self.lr, end=self.end)

    def __call__(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        return self.end + (self.lr - self.end) * (1 + math.cos(math.pi * min(step, self.steps) / self.steps)) / 2


@dataclass(frozen=True)
class StepDecay:
    """Multiplication of `lr` by `factor` every `steps`.

    >>> [round(StepDecay(0.1, steps=2, factor=0.5)(step), 3) for step in (0, 1, 2, 5)]
    [0.1, 0.1, 0.05, 0.025]
    """

    lr: float
    steps: int
    factor: float

    def __post_init__(self) -> None:
        _check(self.steps, 1, lr=self.lr, factor=self.factor)

    def __call__(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        return float(self.lr * self.factor ** (step // self.steps))


def schedule_from(config: ScheduleConfig, lr: float) -> Schedule | None:
    """Return the schedule of a job's settings with the rate `lr` after the increase, None for a constant rate.

    >>> schedule = schedule_from(ScheduleConfig(warmup_steps=2, decay="cosine", decay_steps=4), 0.1)
    >>> [round(schedule(step), 3) for step in (0, 1, 2, 4, 6)]
    [0.05, 0.1, 0.1, 0.05, 0.0]
    """
    decay: Schedule | None = None
    if config.decay == "polynomial":
        decay = PolynomialDecay(lr, config.decay_steps, config.end_lr, config.power)
    elif config.decay == "cosine":
        decay = CosineDecay(lr, config.decay_steps, config.end_lr)
    elif config.decay == "step":
        decay = StepDecay(lr, config.decay_steps, config.factor)
    return Warmup(lr, config.warmup_steps, decay) if config.warmup_steps else decay
