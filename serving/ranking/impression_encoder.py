"""Impressions of answered requests as bytes, many at once, by the core and without the GIL.

Letters: n candidates, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monolith_py import _core
from monolith_py.config import DenseFeatureConfig, JobConfig
from monolith_py.data.columns import FloatArray
from monolith_py.data.packed_rows import PackedRows
from monolith_py.data.schema import Schema
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.request_features import RequestFeatures
from monolith_serving.ranking.request import RankInput

_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class ServedRequest(NamedTuple):
    """An answered request, as the replica holds it."""

    request: RankInput
    features: RequestFeatures
    scores: FloatArray  # (n, T)
    model_version: str

    @property
    def request_id(self) -> str:
        """Return the id of the request."""
        return self.request.request_id

    @property
    def time_ms(self) -> int:
        """Return the event time."""
        return self.request.time_ms

    @property
    def num_bytes(self) -> int:
        """Return the memory of the arrays in bytes, not less than the impression takes for them."""
        return self.features.num_bytes + self.scores.nbytes + self.request.item_ids.nbytes


class ImpressionEncoder:
    """Encodes the answered requests of one job; the bytes are those of `monolith_py.io.codec.encode_impression`."""

    def __init__(self, job: JobConfig) -> None:
        schema = Schema.of(job)
        order = RequestOrder.of(schema, job.counters)
        shared = order.shared_names, _widths(order.shared_dense)
        candidates = order.candidate_names, _widths(order.candidate_dense)
        self._core = _core.ImpressionEncoder(shared, candidates, schema.tasks, job.serving.arm)

    def __call__(self, served: Sequence[ServedRequest | _core.RankedRequest]) -> list[bytes]:
        """Return the impressions of `served`, requests that `Ranker` or the core has answered.

        Raises:
            ValueError, UnicodeEncodeError, BufferError, OverflowError: an array of another shape, type or order, a text that is not
                Unicode, or a number beyond 64 bits; nothing is returned for the others.
        """
        of_core = [one for one in served if isinstance(one, _core.RankedRequest)]
        values = iter(_core.encode_ranked(self._core, of_core))
        others = iter(self._core.encode([_values(*one) for one in served if isinstance(one, ServedRequest)]))
        return [next(others if isinstance(one, ServedRequest) else values) for one in served]


def _widths(dense: Sequence[DenseFeatureConfig]) -> list[tuple[str, int]]:
    return [(feature.name, feature.dim) for feature in dense]


def _values(request: RankInput, features: RequestFeatures, scores: FloatArray, version: str) -> _core.ServedValues:
    shared, candidates = _arrays(features.shared), _arrays(features.candidates)
    return request.request_id, request.time_ms, request.user_id, request.item_ids, shared, candidates, scores, version


def _arrays(rows: PackedRows) -> _Arrays:
    return rows.fids, rows.starts, rows.lengths, rows.dense
