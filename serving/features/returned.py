"""Features of a request in its answer, as they were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from monolith_py.config import DenseFeatureConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.packed_rows import PackedRows
from monolith_py.errors import WireError
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.request_features import RequestFeatures

# Fids and values, up to 8 bytes each: 3.2 MB of the 4 MB that gRPC clients accept by default.
MAX_RETURNED_VALUES = 400_000


def returnable_names(order: RequestOrder) -> list[str]:
    """Return the names of all features that a request may ask for."""
    dense = [feature.name for feature in (*order.shared_dense, *order.candidate_dense)]
    return [*order.shared_names, *order.candidate_names, *dense]


def returned_features(names: Sequence[str], features: RequestFeatures, order: RequestOrder) -> tuple[FeatureColumns, FeatureColumns]:
    """Return the features `names`: those that all candidates share, one row, and those of each candidate.

    Raises:
        WireError: they have too many values.
    """
    shared = _Chosen(names, features.shared, order.shared_names, order.shared_dense)
    candidates = _Chosen(names, features.candidates, order.candidate_names, order.candidate_dense)
    if (num := shared.num_values + candidates.num_values) > MAX_RETURNED_VALUES:
        raise WireError(f"return_features must name features of at most {MAX_RETURNED_VALUES} values, got {num}: set top_k or fewer names")
    return shared.columns(), candidates.columns()


class _Chosen:
    """Some features of rows, by name."""

    def __init__(self, names: Sequence[str], rows: PackedRows, sparse: Sequence[str], dense: Sequence[DenseFeatureConfig]) -> None:
        self._sparse = [name for name in sparse if name in names]
        self._dense = [feature for feature in dense if feature.name in names]
        features = np.array([place for place, name in enumerate(sparse) if name in names], np.intp)
        self._rows = rows.take(features, np.array([*_columns(names, dense)], np.intp))

    @property
    def num_values(self) -> int:
        """Return the number of fids and dense values."""
        return int(self._rows.lengths.sum(dtype=np.int64)) + self._rows.dense.size

    def columns(self) -> FeatureColumns:
        """Return the features as columns."""
        return self._rows.columns(self._sparse, self._dense)


def _columns(names: Sequence[str], dense: Sequence[DenseFeatureConfig]) -> Iterator[int]:
    """Yield the places of the values of the dense features `names`."""
    first = 0
    for feature in dense:
        if feature.name in names:
            yield from range(first, first + feature.dim)
        first += feature.dim
