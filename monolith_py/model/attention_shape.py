"""Shape of the attention over sequence features, without torch: trainer and replica share it.

Letters: L rows of a sequence, D the dim of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monolith_py.data.schema import Schema


@dataclass(frozen=True)
class AttentionShape:
    """Attention over one sequence: places in an example's pooled rows, and layers."""

    name: str  # of the feature
    start: int  # of its rows, L * D values
    length: int  # L
    target: int  # start of the row that attends, D values
    dim: int  # D
    hidden: tuple[int, ...]  # outputs of the hidden layers
    row: int  # number of the first row of the sequence among the pooled rows
    target_row: int
    place: int  # number of the attended row among the rows that the model reads

    @staticmethod
    def of(schema: Schema) -> tuple[AttentionShape, ...]:
        """Return the attention over each sequence of `schema` that has one, in the order of the features."""
        widths = [feature.dim * feature.num_rows for feature in schema.features]
        starts = dict(zip(schema.sparse_names, np.cumsum([0, *widths[:-1]]).tolist(), strict=True))
        numbers = [feature.num_rows for feature in schema.features]
        rows = dict(zip(schema.sparse_names, np.cumsum([0, *numbers[:-1]]).tolist(), strict=True))
        found, place = [], 0
        for one in schema.features:
            if one.attend_to is not None:
                pooled, target = (starts[one.name], one.length, starts[one.attend_to]), rows[one.attend_to]
                found.append(AttentionShape(one.name, *pooled, one.dim, one.attention, rows[one.name], target, place))
            place += 1 if one.attend_to is not None else one.num_rows
        return tuple(found)

    @property
    def prefix(self) -> str:
        """Return the prefix of the names of the parameters."""
        return f"attention.of_{self.name}"

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Return inputs and outputs of each layer; the first reads target, row, their difference and their product."""
        widths = [4 * self.dim, *self.hidden, 1]
        return list(pairwise(widths))

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by its name."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (inputs, outputs) in enumerate(self.layers):
            shapes |= {f"{self.prefix}.layers.{index}.weight": (outputs, inputs), f"{self.prefix}.layers.{index}.bias": (outputs,)}
        return shapes
