"""Slices: named parts of a row, each with its own rule, start values and encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monolith_py import _core
from monolith_py.table.optimizers import Optimizer

Initializer = Literal["zeros", "constant", "uniform", "normal", "xavier"]
Encoding = Literal["fp32", "fp16", "int8", "int4"]


@dataclass(frozen=True)
class Slice:
    """`dim` weights of every row.

    Start values are a pure function of (seed, fid). `init_scale` is the constant, half the width of "uniform", the standard deviation of
    "normal", or the gain of "xavier" (uniform within gain * sqrt(6 / (1 + dim)): Glorot and Bengio 2010, equation 16, of a layer of one
    input). `encoding` is what a drain packs the slice as.
    """

    name: str
    dim: int
    optimizer: Optimizer
    initializer: Initializer = "uniform"
    init_scale: float = 0.01
    encoding: Encoding = "fp16"

    def core(self) -> _core.Slice:
        """Return the slice as the core takes it.

        Raises:
            ValueError: `dim` is 0, or initializer or encoding is unknown.
        """
        if self.dim < 1:
            raise ValueError(f"dim of slice {self.name!r} must be >= 1, got {self.dim!r}")
        rule = self.optimizer
        return _core.Slice(self.name, self.dim, rule.kind, rule.hyper(), self.initializer, self.init_scale, self.encoding)
