"""Features of ranking requests: read once, scored as one batch, logged as they are.

Letters: n candidates, B candidates of a batch, R rows, T tasks, V values of a counter (1 + T).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from monolith_py.config import CounterConfig, DenseFeatureConfig
from monolith_py.data.columns import FeatureColumns, FloatArray, Int32Array, Int64Array
from monolith_py.data.packed_rows import IndexArray, PackedRow, PackedRows
from monolith_py.data.schema import Schema
from monolith_py.model.batch import Batch
from monolith_serving.features.order import RequestOrder
from monolith_serving.features.store import FeatureStore, Reading
from monolith_serving.replica.model_state import SharedBags

# Most fids of a batch that are looked up again for each candidate. A second look-up, for the shared features alone, takes 75 to 115 us
# (36 features of dim 16, int8), as long as these do.
_MAX_REPEATED_FIDS = 32_768


@dataclass(frozen=True)
class RequestFeatures:
    """Features of one request."""

    shared: PackedRows  # one row: user, context, their counters
    candidates: PackedRows  # n rows: items and their counters
    is_complete: bool = True  # all stored features could be read

    @property
    def num_fids(self) -> int:
        """Return the number of fids to look up."""
        return len(self.shared.fids) + len(self.candidates.fids)

    @property
    def num_bytes(self) -> int:
        """Return the memory of the features in bytes, not less than an impression takes for them."""
        return sum(array.nbytes for rows in (self.shared, self.candidates) for array in (rows.fids, rows.starts, rows.lengths, rows.dense))


class FeatureReader:
    """Reads the features of requests. Safe for threads."""

    def __init__(self, schema: Schema, counters: CounterConfig, store: FeatureStore) -> None:
        self._schema, self._store = schema, store
        self._order = order = RequestOrder.of(schema, counters)
        names = order.shared_names + order.candidate_names
        self._sparse_index: IndexArray = np.array([names.index(name) for name in schema.sparse_names], np.intp)
        self._dense_index = _column_index(order.shared_dense + order.candidate_dense, schema)

    @property
    def order(self) -> RequestOrder:
        """Return the order of the features of a request."""
        return self._order

    def read(
        self, user_id: int, item_ids: Int64Array, context: PackedRow, until_s: float, of_candidates: PackedRows | None = None
    ) -> RequestFeatures:
        """Return the features of a user, of the request itself and of items int64 (n,); reads end at `until_s`, monotonic.

        `of_candidates` holds the request's own features of each item, n rows; None for none of them.

        Raises:
            KvError, TimeoutError: the store cannot be reached, or no time is left, and the settings want the features.
        """
        reading = Reading(until_s)
        shared = self._store.user(user_id, reading)
        if self._order.context.names or self._order.context.dense:
            shared = shared.beside(PackedRows.of([context]))
        candidates = self._store.items(item_ids.tolist(), reading)
        if self._order.candidate.names or self._order.candidate.dense:
            candidates = candidates.beside(of_candidates or self._order.candidate.pack_rows(FeatureColumns(len(item_ids))))
        shared = self._with_counters(shared, self._order.shared_names, self._order.shared_keys, reading)
        candidates = self._with_counters(candidates, self._order.candidate_names, self._order.candidate_keys, reading)
        return RequestFeatures(shared, candidates, reading.is_complete)

    def batch(self, group: Sequence[RequestFeatures]) -> tuple[Batch, SharedBags | None]:
        """Return model input for the candidates of all requests, request by request: B rows.

        The features that the candidates of a request share are beside it, once for each request; None if they are few enough to repeat.
        """
        counts = np.array([len(one.candidates) for one in group], np.int64)
        shared = PackedRows.concat([one.shared for one in group])
        candidates = PackedRows.concat([one.candidates for one in group])
        num_repeated = sum(len(one.shared.fids) * (len(one.candidates) - 1) for one in group)
        if num_repeated <= _MAX_REPEATED_FIDS:
            return self._batch(shared.repeat(counts).beside(candidates)), None
        num_features, width = candidates.lengths.shape[1], candidates.dense.shape[1]
        no_item = _no_fids(len(shared), num_features, np.zeros((len(shared), width), np.float32))
        no_shared = _no_fids(len(candidates), shared.lengths.shape[1], np.repeat(shared.dense, counts, axis=0))
        return self._batch(no_shared.beside(candidates)), SharedBags(self._batch(shared.beside(no_item)), counts)

    def without(self, features: RequestFeatures, name: str) -> RequestFeatures:
        """Return `features` with empty bags, or zeros, in place of the feature `name`."""
        order = self._order
        return RequestFeatures(
            _emptied(features.shared, order.shared_names, order.shared_dense, name),
            _emptied(features.candidates, order.candidate_names, order.candidate_dense, name),
            features.is_complete,
        )

    def _batch(self, rows: PackedRows) -> Batch:
        return Batch.of(rows.take(self._sparse_index, self._dense_index), self._schema)

    def _with_counters(self, rows: PackedRows, names: Sequence[str], keys: Sequence[str], reading: Reading) -> PackedRows:
        """Return the rows with the counters of each feature in `keys`: the mean over a row's fids."""
        for key in keys:
            fids, lengths = rows.feature(names.index(key))
            values = self._store.counters(key, fids.tolist(), reading)  # (fids, V)
            rows = rows.with_dense(_row_means(values, lengths, self._store.no_counter))
        return rows


def _emptied(rows: PackedRows, names: Sequence[str], dense: Sequence[DenseFeatureConfig], name: str) -> PackedRows:
    """Return rows without the values of one feature; `rows` themselves if they do not have it."""
    if name in names:
        lengths = rows.lengths.copy()
        lengths[:, names.index(name)] = 0
        return replace(rows, lengths=lengths)
    first = 0
    for feature in dense:
        if feature.name == name:
            values = rows.dense.copy()
            values[:, first : first + feature.dim] = 0.0
            return replace(rows, dense=values)
        first += feature.dim
    return rows


def _no_fids(num_rows: int, num_features: int, dense: FloatArray) -> PackedRows:
    """Return rows with empty bags and the values `dense` float32 (R, W)."""
    return PackedRows(
        np.empty(0, np.int64), np.zeros((num_rows, num_features), np.int64), np.zeros((num_rows, num_features), np.int32), dense
    )


def _column_index(order: Sequence[DenseFeatureConfig], schema: Schema) -> IndexArray:
    """Return for each dense column of the schema its column in rows with the features of `order`: (W,)."""
    starts = dict(zip((feature.name for feature in order), np.cumsum([0, *(feature.dim for feature in order)]), strict=False))
    parts = [np.arange(dense.dim, dtype=np.intp) + starts[dense.name] for dense in schema.dense_features]
    return np.concatenate([np.empty(0, np.intp), *parts])


def _row_means(values: FloatArray, lengths: Int32Array, absent: FloatArray) -> FloatArray:
    """Return the mean of each row's values, float32 (R, V); `absent` (V,) for a row without any. `values` (n, V) are row by row."""
    if len(values) == len(lengths) and (lengths == 1).all():
        return values
    means = np.tile(absent, (len(lengths), 1))
    filled = lengths > 0
    starts = (np.cumsum(lengths) - lengths)[filled]
    if len(starts):
        means[filled] = np.add.reduceat(values, starts, axis=0) / lengths[filled][:, None]
    return means
