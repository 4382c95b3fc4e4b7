"""Names of the inputs of a model's towers, one for each column of their first layers."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import combinations

from monolith_py.data.layout import Layout

Label = Hashable
# The row that the bottom tower of a DLRM makes of the dense features.
_BOTTOM = "<bottom>"


def tower_inputs(layout: Layout) -> list[Label]:
    """Return the names of the inputs of `RankModel.tower`."""
    rows: list[Label] = [("row", name, index) for name, dim in layout.rows() for index in range(dim)]
    if layout.kind != "dlrm":
        return rows + bottom_inputs(layout)
    names = [name for name, _ in layout.rows()]
    if layout.dense_features:
        names.append(_BOTTOM)
        rows += [("row", _BOTTOM, index) for index in range(max(dim for _, dim in layout.rows()))]
    pairs: list[Label] = [("dot", frozenset(pair)) for pair in combinations(names, 2)]
    return pairs + rows


def bottom_inputs(layout: Layout) -> list[Label]:
    """Return the names of the dense features' values, the inputs of `DLRM.bottom`."""
    return [("value", name, value) for name, values in layout.dense_features for value in values]
