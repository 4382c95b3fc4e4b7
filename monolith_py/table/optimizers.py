"""Update rules of rows, with their formula, source and state per row. The core runs them, fused with the sum over duplicate fids.

Letters: g the row's gradient (summed over the batch), w its weights, D the slice's dim.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from monolith_py.config import SparseOptimizerConfig
from monolith_py.errors import ConfigError
from monolith_py.table.schedules import Schedule


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
        if not self.rate(0) > 0 and not callable(self.lr):
            raise ValueError(f"lr must be > 0, got {self.lr!r}")
        for name in ("weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)!r}")

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


@dataclass(frozen=True)
class GroupAdagrad(Optimizer):
    """n += max(g^2); Adagrad's step, then the proximal step of the group lasso of strength `l2`, which frees rows that become zero.

    Monolith's AdaGradWithGroupLasso; Yang et al. 2010, equation 9. One float of state. A freed row is evicted: replicas get a tombstone,
    and the fid starts as a new one at its next sighting.
    """

    kind = "group_adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.1
    l2: float = 0.0


@dataclass(frozen=True)
class GroupFtrl(Optimizer):
    """FTRL with group sparsity (Ni et al. 2021, algorithm 1): a row with |z| below l2 * sqrt(D) is zero and is freed.

    2 D floats of state. A freed row is evicted, as in `GroupAdagrad`.
    """

    kind = "group_ftrl"
    initial_accumulator: float = 0.0
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0


_RULES = (Sgd, Momentum, Adagrad, RowwiseAdagrad, Adadelta, RmsProp, Adam, AmsGrad, AdamW, Ftrl, GroupAdagrad, GroupFtrl)


def optimizer_from(config: SparseOptimizerConfig) -> Optimizer:
    """Return the rule of the settings; a setting left out takes the rule's default.

    Raises:
        ConfigError: the rule has no such setting.
    """
    rule = {cls.kind: cls for cls in _RULES}[config.kind]
    settings = config.model_dump(exclude_none=True, exclude={"kind"})
    known = {field.name for field in fields(rule)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"optimizer.sparse.{name} must be a setting of {config.kind} ({', '.join(sorted(known))}), got {value!r}")
    return rule(**settings)
