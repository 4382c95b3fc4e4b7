"""Effect of fitting saved dense parameters to another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from monolith_py.data.columns import Int64Array

Tensors = Mapping[str, Tensor]


@dataclass
class FittedModel:
    """Effect of a fit: saved places of each parameter's entries, and a line for each part of the model."""

    # For each parameter kept: by axis, the saved place of each present one, -1 for a new one; () if it is as saved.
    places: dict[str, tuple[Int64Array, ...]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def keep(self, name: str, *places: Int64Array) -> None:
        """Note that a parameter is kept; `places` by axis."""
        self.places[name] = places if any((one != np.arange(len(one))).any() for one in places) else ()


def take(tensor: Tensor, places: Sequence[Int64Array]) -> Tensor:
    """Return `tensor` with the entries at `places` of each axis, 0 at -1."""
    for axis, one in enumerate(places):
        index = torch.from_numpy(one)
        tensor = tensor.index_select(axis, index.clamp(min=0))
        shape = [-1 if at == axis else 1 for at in range(tensor.ndim)]
        tensor = tensor.where((index >= 0).view(shape), torch.zeros((), dtype=tensor.dtype))
    return tensor
