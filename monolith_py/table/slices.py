"""Slices: named parts of a row with their own update rule, start values and encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monolith_py import _core
from monolith_py.table.arguments import number, whole
from monolith_py.table.optimizers import Optimizer

Initializer = Literal["zeros", "constant", "uniform", "normal", "xavier"]
Encoding = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True)
class Slice:
    """A part of every row: `dim` weights.

    Start values are a pure function of (seed, fid). `init_scale` is the value of "constant", half the width of "uniform", the standard
    deviation of "normal", or the gain of "xavier": uniform within gain * sqrt(6 / (1 + dim)), Glorot and Bengio 2010, equation 16, for
    a layer of one input. `encoding` is that of `drain_encoded`.
    """

    name: str
    dim: int
    optimizer: Optimizer
    initializer: Initializer = "uniform"
    init_scale: float = 0.01
    encoding: Encoding = "fp16"

    def core(self) -> _core.Slice:
        """Return the slice of the core.

        Raises:
            ValueError: `dim` is below 1, `init_scale` is not finite, or initializer or encoding is unknown.
        """
        if whole(f"dim of slice {self.name!r}", self.dim) < 1:
            raise ValueError(f"dim of slice {self.name!r} must be >= 1, got {self.dim!r}")
        if not abs(number(f"init_scale of slice {self.name!r}", self.init_scale)) <= float(np.finfo(np.float32).max):
            raise ValueError(f"init_scale of slice {self.name!r} must be finite in float32, got {self.init_scale!r}")
        rule = self.optimizer
        return _core.Slice(self.name, int(self.dim), rule.kind, rule.hyperparameters(), self.initializer, self.init_scale, self.encoding)


def core_slices(slices: Sequence[Slice], dim: int) -> list[_core.Slice]:
    """Return the slices of a row of `dim` weights as slices of the core.

    Raises:
        ValueError: two have the same name, their dims do not sum to `dim`, or a setting of one is out of its range.
    """
    parts = [part.core() for part in slices]
    names = [part.name for part in slices]
    if sum(part.dim for part in slices) != dim or len(set(names)) != len(names):
        raise ValueError(f"slices must have different names and dims that add up to {dim}, got {[(s.name, s.dim) for s in slices]}")
    return parts
