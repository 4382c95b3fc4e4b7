"""Update rules of rows, with their formula, source and state per row. The core runs them, fused with the sum over duplicate fids.

Letters: g the row's gradient (summed over the batch), w its weights, D the slice's dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from monolith_py.config import SparseOptimizerConfig
from monolith_py.table.arguments import number
from monolith_py.table.schedules import Schedule, schedule_from


def _single(field: str, value: object) -> np.float32:
    """Return a float32, infinite if the value is too large for it.

    Raises:
        ValueError: the value is no number.
    """
    with np.errstate(over="ignore"):
        return np.float32(number(field, value))


# Ranges of hyperparameters in float32, in which a row stays finite. A divisor must not be zero for a gradient whose square is: eps > 0.
_Check = Callable[[np.float32], bool]
_NOT_NEGATIVE: tuple[str, _Check] = (">= 0 and finite", lambda value: bool(0 <= value < math.inf))
_DECAY: tuple[str, _Check] = (">= 0 and < 1", lambda value: bool(0 <= value < 1))
_RANGES: dict[str, tuple[str, _Check]] = {
    **dict.fromkeys(("weight_decay", "clip_norm", "initial_accumulator", "l1", "l2", "beta"), _NOT_NEGATIVE),
    **dict.fromkeys(("momentum", "rho", "beta1", "beta2"), _DECAY),
    "eps": ("> 0 and finite", lambda value: bool(0 < value < math.inf)),
}


@dataclass(frozen=True)
class Optimizer:
    """Update rule of rows; use a subclass.

    Before the rule, `weight_decay` * w is added to g, and g is scaled down to the norm `clip_norm` (of one row's slice) if its norm is
    larger; 0 turns either off. `lr` may be a schedule.
    """

    kind: ClassVar[str]
    lr: float | Schedule = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.lr) and not 0 < _single("lr", self.lr) < math.inf:
            raise ValueError(f"lr must be > 0 and finite, got {self.lr!r}")
        for name, (rule, holds) in _RANGES.items():
            if hasattr(self, name) and not holds(_single(name, value := getattr(self, name))):
                raise ValueError(f"{name} must be {rule}, got {value!r}")

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`."""
        return self.lr(step) if callable(self.lr) else self.lr

    def hyperparameters(self) -> dict[str, float]:
        """Return the rule's hyperparameters by the core's names, with the learning rate of step 0."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: float(value) for name, value in {**numbers, "lr": self.rate(0)}.items()}


@dataclass(frozen=True)
class Sgd(Optimizer):
    """w -= lr * g. No state."""

    kind = "sgd"


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v = momentum * v + g; w -= lr * v, or with `nesterov` lr * (g + momentum * v), as torch.optim.SGD. D floats of state."""

    kind = "momentum"
    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """n += g^2; w -= lr * g / (sqrt(n) + eps) (Duchi et al. 2011). D floats of state, initialised to `initial_accumulator`."""

    kind = "adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.01


@dataclass(frozen=True)
class RowwiseAdagrad(Optimizer):
    """n += mean(g^2); w -= lr * g / (sqrt(n) + eps), as in FBGEMM. One float of state."""

    kind = "rowwise_adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.0


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, algorithm 1), with its step multiplied by lr. 2 D floats of state."""

    kind = "adadelta"
    lr: float | Schedule = 1.0
    rho: float = 0.9
    eps: float = 1e-6


@dataclass(frozen=True)
class RmsProp(Optimizer):
    """n = rho * n + (1 - rho) * g^2; w -= lr * g / (sqrt(n) + eps) (Tieleman and Hinton 2012). D floats of state."""

    kind = "rmsprop"
    rho: float = 0.99
    eps: float = 1e-8


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1) on the touched rows only, with a step count per row. 2 D + 1 floats of state."""

    kind = "adam"
    lr: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class AmsGrad(Adam):
    """Adam with the greatest v so far in the denominator (Reddi et al. 2018), as in torch.optim. 3 D + 1 floats of state."""

    kind = "amsgrad"


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: w *= 1 - lr * weight_decay (Loshchilov and Hutter 2019). 2 D + 1 floats of state."""

    kind = "adamw"
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Ftrl(Optimizer):
    """FTRL-Proximal (McMahan et al. 2013, algorithm 1). 2 D floats of state. A row keeps its start value until its first update."""

    kind = "ftrl"
    initial_accumulator: float = 0.01
    l1: float = 0.0
    l2: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divisor(self.initial_accumulator, self.beta, self.l2)


@dataclass(frozen=True)
class GroupAdagrad(Optimizer):
    """n += max(g^2); Adagrad's step, then the proximal step of the group lasso of strength `l2`, which sets short rows to zero.

    Monolith's AdaGradWithGroupLasso; Yang et al. 2010, equation 9. One float of state. A row at zero keeps its state, so that it can
    leave zero again; drains report it as evicted, and it leaves the table by TTL or budget.
    """

    kind = "group_adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.1
    l2: float = 0.0


@dataclass(frozen=True)
class GroupFtrl(Optimizer):
    """FTRL with group sparsity (Ni et al. 2021, algorithm 1): a row with |z| below l2 * sqrt(D) is zero.

    2 D floats of state. A row at zero keeps them, as in `GroupAdagrad`: z must add up over steps before the row leaves zero.
    """

    kind = "group_ftrl"
    initial_accumulator: float = 0.0
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_divisor(self.initial_accumulator, self.beta, 0.0)


def _check_divisor(initial_accumulator: float, beta: float, l2: float) -> None:
    """Check that FTRL divides by no zero: a gradient of 1e-25 has a square of zero in float32.

    Raises:
        ValueError: all addends of the divisor may be zero.
    """
    if not max(np.float32(value) for value in (initial_accumulator, beta, l2)) > 0:
        raise ValueError(f"initial_accumulator or beta of FTRL must be > 0, got {initial_accumulator!r} and {beta!r}")


_RULES = (Sgd, Momentum, Adagrad, RowwiseAdagrad, Adadelta, RmsProp, Adam, AmsGrad, AdamW, Ftrl, GroupAdagrad, GroupFtrl)


def optimizer_from(config: SparseOptimizerConfig) -> Optimizer:
    """Return the rule of the settings; a setting left out takes the rule's default."""
    rule = {cls.kind: cls for cls in _RULES}[config.kind]
    made = rule(**config.model_dump(exclude_none=True, exclude={"kind", "schedule"}))
    schedule = schedule_from(config.schedule, made.rate(0))
    return made if schedule is None else replace(made, lr=schedule)
