"""Rules that update rows: what each holds per row, and where it comes from. The C++ core runs them, fused with the sum over duplicates.

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
    """One update rule of rows; use one of its subclasses.

    Before the rule, `weight_decay` adds itself times w to g, and `clip_norm` scales g down to that norm (of one row's slice) where it is
    longer; 0 does neither. `lr` may be a schedule.
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

    def hyper(self) -> dict[str, float]:
        """Return the rule's numbers by the core's names, at step 0."""
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
    """n += g^2; w -= lr * g / (sqrt(n) + eps) (Duchi et al. 2011). D floats of state, which start at `initial_accumulator`."""

    kind = "adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.01


@dataclass(frozen=True)
class RowwiseAdagrad(Optimizer):
    """n += mean(g^2); w -= lr * g / (sqrt(n) + eps), as FBGEMM's. One float of state a row."""

    kind = "rowwise_adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.0


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, algorithm 1), its step times lr. 2 D floats of state."""

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
    """Adam (Kingma and Ba 2015, algorithm 1) of the touched rows only, with a step count for each row. 2 D + 1 floats of state."""

    kind = "adam"
    lr: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class AmsGrad(Adam):
    """Adam that divides by the greatest v so far (Reddi et al. 2018), as torch has it. 3 D + 1 floats of state."""

    kind = "amsgrad"


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose decay goes straight to the weights: w *= 1 - lr * weight_decay (Loshchilov and Hutter 2019). 2 D + 1 floats of state."""

    kind = "adamw"
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Ftrl(Optimizer):
    """FTRL-Proximal (McMahan et al. 2013, algorithm 1). 2 D floats of state; the start value counts until the first update."""

    kind = "ftrl"
    initial_accumulator: float = 0.01
    l1: float = 0.0
    l2: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class GroupAdagrad(Optimizer):
    """n += max(g^2); Adagrad's step, then the group lasso's proximal step of strength `l2`, which frees rows that it brings to zero.

    Monolith's AdaGradWithGroupLasso; Yang et al. 2010, equation 9. One float of state a row. A freed row is evicted: replicas get its
    tombstone, and its fid starts anew when it is seen again.
    """

    kind = "group_adagrad"
    eps: float = 1e-8
    initial_accumulator: float = 0.1
    l2: float = 0.0


@dataclass(frozen=True)
class GroupFtrl(Optimizer):
    """FTRL with group sparsity (Ni et al. 2021, algorithm 1): rows whose z is shorter than l2 * sqrt(D) are zero and are freed.

    2 D floats of state. A freed row is evicted, as `GroupAdagrad` has it.
    """

    kind = "group_ftrl"
    initial_accumulator: float = 0.0
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0


_RULES = (Sgd, Momentum, Adagrad, RowwiseAdagrad, Adadelta, RmsProp, Adam, AmsGrad, AdamW, Ftrl, GroupAdagrad, GroupFtrl)


def optimizer_from(config: SparseOptimizerConfig) -> Optimizer:
    """Return the rule that the settings describe; what they leave open is as the rule has it.

    Raises:
        ConfigError: a setting is none of the rule's.
    """
    rule = {cls.kind: cls for cls in _RULES}[config.kind]
    settings = config.model_dump(exclude_none=True, exclude={"kind"})
    known = {field.name for field in fields(rule)}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"optimizer.sparse.{name} must be a setting of {config.kind} ({', '.join(sorted(known))}), got {value!r}")
    return rule(**settings)
