"""Rules that update rows: what each holds per row, and where it comes from. The C++ core runs them, fused with the sum over duplicates.

Letters: g the row's gradient (summed over the batch), w its weights, D the row's dim.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import ClassVar

from monolith_py.config import SparseOptimizerConfig


@dataclass(frozen=True)
class Optimizer:
    """One update rule of rows; use one of its subclasses."""

    kind: ClassVar[str]
    lr: float = 0.02

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0, got {self.lr!r}")

    def hyper(self) -> dict[str, float]:
        """Return the rule's numbers by the core's names."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Sgd(Optimizer):
    """w -= lr * g. No state."""

    kind = "sgd"


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
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1) of the touched rows only, with a step count for each row. 2 D + 1 floats of state."""

    kind = "adam"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Ftrl(Optimizer):
    """FTRL-Proximal (McMahan et al. 2013, algorithm 1). 2 D floats of state; the start value counts until the first update."""

    kind = "ftrl"
    initial_accumulator: float = 0.01
    l1: float = 0.0
    l2: float = 0.0
    beta: float = 0.0


def optimizer_from(config: SparseOptimizerConfig) -> Optimizer:
    """Return the rule that the settings describe; settings that the rule does not know are left out."""
    rule = {cls.kind: cls for cls in (Sgd, Adagrad, RowwiseAdagrad, Adam, Ftrl)}[config.kind]
    settings = config.model_dump()
    return rule(**{field.name: settings[field.name] for field in fields(rule) if field.name in settings})
