"""Requests to forget the rows of some fids, and the filter that keeps them from being learnt again.

Letters: B examples, n fids over all rows of a sparse column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from monolith_py.data.columns import FeatureColumns, Int64Array, SparseColumn
from monolith_py.data.examples import ExampleBatch


@dataclass(frozen=True)
class ForgetRequest:
    """Fids of one feature whose rows go, and from which nothing is learnt up to an event time."""

    feature: str
    fids: tuple[int, ...]
    time_ms: int  # event time


class ForgottenFids:
    """Fids that were forgotten, by feature, each with the event time of its newest request.

    >>> forgotten = ForgottenFids()
    >>> forgotten.add([ForgetRequest("user_id", (7,), time_ms=1_000)])
    >>> forgotten.newest_ms
    1000
    """

    def __init__(self) -> None:
        self.newest_ms = -1
        self._fids: dict[str, Int64Array] = {}  # sorted
        self._times_ms: dict[str, Int64Array] = {}

    def add(self, requests: Iterable[ForgetRequest]) -> None:
        """Add requests."""
        times: dict[str, dict[int, int]] = {}
        for request in requests:
            known = times.setdefault(request.feature, self._known(request.feature))
            for fid in request.fids:
                known[fid] = max(known.get(fid, request.time_ms), request.time_ms)
            self.newest_ms = max(self.newest_ms, request.time_ms)
        for feature, known in times.items():
            fids = np.fromiter(known, np.int64, len(known))
            order = np.argsort(fids)
            self._fids[feature] = fids[order]
            self._times_ms[feature] = np.fromiter(known.values(), np.int64, len(known))[order]

    def strip(self, examples: ExampleBatch) -> ExampleBatch:
        """Return the examples without the forgotten fids of those whose impression is not after the request."""
        if not self._fids or examples.times_ms.min(initial=self.newest_ms + 1) > self.newest_ms:
            return examples
        sparse = examples.features.sparse
        stripped: dict[str, SparseColumn] = {}
        for feature in self._fids.keys() & sparse.keys():
            column = self._stripped(feature, sparse[feature], examples.times_ms)
            if column is not None:
                stripped[feature] = column
        if not stripped:
            return examples
        columns = {name: stripped[name] if name in stripped else sparse[name] for name in sparse}
        return replace(examples, features=FeatureColumns(len(examples), columns, dict(examples.features.dense)))

    def _stripped(self, feature: str, column: SparseColumn, times_ms: Int64Array) -> SparseColumn | None:
        """Return the column without its forgotten fids, None if it has none."""
        known = self._fids[feature]
        place = np.minimum(np.searchsorted(known, column.fids), len(known) - 1)  # (n,)
        rows = np.repeat(np.arange(len(column)), column.lengths)
        gone = (known[place] == column.fids) & (times_ms[rows] <= self._times_ms[feature][place])
        if not gone.any():
            return None
        lengths = column.lengths - np.bincount(rows[gone], minlength=len(column)).astype(np.int32)
        return SparseColumn(column.fids[~gone], lengths)

    def _known(self, feature: str) -> dict[int, int]:
        if feature not in self._fids:
            return {}
        return dict(zip(self._fids[feature].tolist(), self._times_ms[feature].tolist(), strict=True))
