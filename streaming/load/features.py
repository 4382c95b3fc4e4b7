"""Features of users and items: from the rows of a table to the values of the store, and from the store to the features of an impression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from monolith_py.config import DenseFeatureConfig, FeatureConfig, JobConfig
from monolith_py.config.load import EntityColumns
from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.io import Kv
from monolith_py.io.codec import decode_features, encode_features
from monolith_streaming.load.table_file import TableBatch, TableFile

Entity = Literal["user", "item"]


class Mapped(NamedTuple):
    """Features of a table with their columns."""

    sparse: Mapping[str, str]  # feature -> column
    dense: Mapping[str, tuple[str, int]]  # feature -> (column, dim)

    def read(self, batch: TableBatch) -> FeatureColumns:
        """Return the features of the rows of `batch`."""
        return FeatureColumns(
            len(batch),
            {name: batch.bags(column) for name, column in self.sparse.items()},
            {name: batch.values(column, dim) for name, (column, dim) in self.dense.items()},
        )

    @staticmethod
    def of(features: Sequence[FeatureConfig | DenseFeatureConfig], columns: Mapping[str, str], dims: Mapping[str, int]) -> Mapped:
        """Return `features`, each in its column of `columns`; `dims` has those of dense features."""
        present = [feature.name for feature in features if feature.name in columns]
        sparse = {name: columns[name] for name in present if name not in dims}
        return Mapped(sparse, {name: (columns[name], dims[name]) for name in present if name in dims})


def stored_features(table: TableFile, entity: Entity, columns: EntityColumns, schema: Schema) -> Mapped:
    """Return the features that the table of `entity` must have.

    Raises:
        WireError: the file lacks a column, or a setting names a feature of another source.
    """
    features = [feature for feature in schema.all_features if feature.source == entity]
    names = [feature.name for feature in features]
    unknown = sorted(set(columns.features) - set(names))
    if unknown:
        raise WireError(f"{entity}s.features must be features of source {entity!r}, {names}, got {unknown}")
    chosen = {name: columns.features.get(name, name) for name in names}
    found = {name: table.require(column, f"{entity}s.features.{name}") for name, column in chosen.items() if column}
    return Mapped.of(features, found, schema.dense_dims)


def read_entities(table: TableFile, id_column: str, mapped: Mapped) -> Iterator[tuple[Int64Array, FeatureColumns]]:
    """Yield ids and features of the good rows of a table, batch by batch.

    Raises:
        WireError: a column has a wrong type, or a row breaks a rule and bad rows are not skipped.
    """
    for batch in table.batches():
        ids, features = batch.ids(id_column), mapped.read(batch)
        yield ids[batch.good], take(features, np.flatnonzero(batch.good))


def write_entities(kv: Kv, entity: Entity, ids: Int64Array, features: FeatureColumns) -> None:
    """Write one value for each id under the key that replicas read; of equal ids the last one stays."""
    kv.write({f"{entity}:{one}": encode_features(features.slice(row, row + 1)) for row, one in enumerate(ids.tolist())})


def take(columns: FeatureColumns, rows: Int64Array) -> FeatureColumns:
    """Return the chosen rows, in their order."""
    if np.array_equal(rows, np.arange(columns.num_rows)):
        return columns
    sparse = {}
    for name, column in columns.sparse.items():
        starts = np.concatenate([[0], np.cumsum(column.lengths)])
        lengths = column.lengths[rows]
        places = np.repeat(starts[rows] - np.concatenate([[0], np.cumsum(lengths)])[:-1], lengths) + np.arange(lengths.sum())
        sparse[name] = SparseColumn(column.fids[places.astype(np.int64)], lengths)
    return FeatureColumns(len(rows), sparse, {name: values[rows] for name, values in columns.dense.items()})


class ServedFeatures:
    """Features of impressions as a replica would have served them: those of the request, then those of the store, else none.

    A feature without values is an empty bag or zeros; live counters are those of a fid that was never counted.
    """

    def __init__(self, job: JobConfig, kv: Kv) -> None:
        self._schema, self._kv = Schema.of(job), kv
        sources = {feature.name: feature.source for feature in job.features}
        self._no_counter = LiveCounters.of(job).values(None)
        self._is_shared = {
            feature.name: (sources[feature.name.removeprefix("counter_")] if feature.source == "counter" else feature.source)
            not in ("item", "item_id", "candidate")
            for feature in self._schema.all_features
        }

    def shared(self, user: int, given: FeatureColumns) -> FeatureColumns:
        """Return the features of a request of `user`, one row; `given` is one row of the table's own."""
        return self._complete("user", np.array([user], np.int64), given, shared=True)

    def candidates(self, items: Int64Array, given: FeatureColumns) -> FeatureColumns:
        """Return the features of the candidates, one row each."""
        return self._complete("item", items, given, shared=False)

    def _complete(self, entity: Entity, ids: Int64Array, given: FeatureColumns, *, shared: bool) -> FeatureColumns:
        stored = self._stored(entity, ids, given)
        sparse: dict[str, SparseColumn] = {}
        dense: dict[str, FloatArray] = {}
        for feature in self._schema.features:
            if self._is_shared[feature.name] == shared:
                own = SparseColumn(ids, np.ones(len(ids), np.int32)) if feature.source == f"{entity}_id" else None
                sparse[feature.name] = own or given.sparse.get(feature.name) or _bags(feature.name, stored)
        for one in self._schema.dense_features:
            if self._is_shared[one.name] != shared:
                continue
            if one.source == "counter":
                dense[one.name] = np.tile(self._no_counter, (len(ids), 1))
            else:
                dense[one.name] = given.dense[one.name] if one.name in given.dense else _values(one, stored)
        return FeatureColumns(len(ids), sparse, dense)

    def _stored(self, entity: Entity, ids: Int64Array, given: FeatureColumns) -> list[FeatureColumns]:
        """Return the stored features of each id, one row each; nothing is read if the table has them all."""
        wanted = {feature.name for feature in self._schema.all_features if feature.source == entity}
        empty = FeatureColumns(1)
        if wanted <= {*given.sparse, *given.dense}:
            return [empty] * len(ids)
        values = self._kv.get_many([f"{entity}:{one}" for one in ids.tolist()])
        return [empty if value is None else decode_features(value) for value in values]


def _bags(name: str, stored: Sequence[FeatureColumns]) -> SparseColumn:
    return SparseColumn.concat([row.sparse.get(name) or SparseColumn.empty(1) for row in stored])


def _values(feature: DenseFeatureConfig, stored: Sequence[FeatureColumns]) -> FloatArray:
    absent = np.zeros((1, feature.dim), np.float32)
    rows = [row.dense.get(feature.name, absent) for row in stored]
    return np.concatenate([row if row.shape[1] == feature.dim else absent for row in rows])
