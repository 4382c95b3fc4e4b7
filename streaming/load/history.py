"""History from tables: requests with their candidates, and actions, in the order of event time.

Letters: N rows of the table of impressions, R requests, C candidates, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.config import JobConfig
from monolith_py.config.load import ActionColumns, ImpressionColumns
from monolith_py.data.columns import FeatureColumns, Int64Array
from monolith_py.data.events import Action, EventTimeRule, Impression
from monolith_py.data.schema import Schema
from monolith_py.errors import WireError
from monolith_py.io.codec.impression_rules import MAX_TEXT_CHARS
from monolith_streaming.load.features import Mapped, ServedFeatures, take
from monolith_streaming.load.table_file import TableBatch, TableFile

# Sources of the features of each candidate that a table may have.
_OF_CANDIDATES = ("item", "candidate")


@dataclass(frozen=True)
class Requests:
    """R requests in the order of event time. The candidates of request r are [offsets[r], offsets[r + 1])."""

    request_ids: list[str]  # (R,)
    times_ms: Int64Array  # (R,) sorted
    users: Int64Array  # (R,)
    offsets: Int64Array  # (R + 1,)
    items: Int64Array  # (C,)
    shared: FeatureColumns  # R rows: features of the table
    candidates: FeatureColumns  # C rows

    def impression(self, index: int, features: ServedFeatures) -> Impression:
        """Return one request as an impression, with the features of the table and of the store."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        user, items = int(self.users[index]), self.items[start:stop]
        return Impression(
            request_id=self.request_ids[index],
            time_ms=int(self.times_ms[index]),
            user_id=user,
            item_ids=items,
            shared=features.shared(user, self.shared.slice(index, index + 1)),
            candidates=features.candidates(items, self.candidates.slice(start, stop)),
            scores=np.zeros((len(items), 0), np.float32),
        )


@dataclass(frozen=True)
class Actions:
    """A actions, sorted by event time."""

    request_ids: list[str]
    items: Int64Array
    kinds: list[str]
    times_ms: Int64Array
    values: npt.NDArray[np.float64]

    def __iter__(self) -> Iterator[Action]:
        rows = zip(self.request_ids, self.items.tolist(), self.kinds, self.times_ms.tolist(), self.values.tolist(), strict=True)
        return (Action(*row) for row in rows)

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def concat(parts: list[Actions]) -> Actions:
        """Return the actions of all parts, sorted by event time; equal times stay in order."""
        times_ms = np.concatenate([part.times_ms for part in parts] or [np.zeros(0, np.int64)])
        order = np.argsort(times_ms, kind="stable")
        texts = [(one, kind) for part in parts for one, kind in zip(part.request_ids, part.kinds, strict=True)]
        return Actions(
            [texts[row][0] for row in order.tolist()],
            np.concatenate([part.items for part in parts] or [np.zeros(0, np.int64)])[order],
            [texts[row][1] for row in order.tolist()],
            times_ms[order],
            np.concatenate([part.values for part in parts] or [np.zeros(0)])[order],
        )


@dataclass(frozen=True)
class _Rows:
    """Good rows of a batch of impressions; row r has candidates [sum(lengths[:r]), sum(lengths[:r + 1]))."""

    request_ids: list[str]
    times_ms: Int64Array
    users: Int64Array
    lengths: Int64Array
    items: Int64Array
    shared: FeatureColumns
    candidates: FeatureColumns


class HistoryTables:
    """Tables of impressions and actions of one job."""

    def __init__(self, job: JobConfig, time_rule: EventTimeRule, wall_ms: int) -> None:
        self._job, self._schema, self._clock = job, Schema.of(job), (time_rule, wall_ms)

    def requests(self, table: TableFile, columns: ImpressionColumns) -> tuple[Requests, Actions]:
        """Return the requests of a table, and the actions that its columns of labels tell.

        Raises:
            WireError: a column is missing or has a wrong type; or a row breaks a rule and bad rows are not skipped.
        """
        for field in ("request_id", "time", "user", "item"):
            if getattr(columns, field):
                table.require(getattr(columns, field), f"impressions.{field}")
        has_lists = table.has_lists(columns.item)
        shared, candidates = self._mapped(table, columns, has_lists)
        for kind, column in columns.actions.items():
            table.require(column, f"impressions.actions.{kind}")
        if has_lists and columns.actions:
            raise WireError(f"{table.path}: impressions.actions must come with one row a candidate, got lists in {columns.item!r}")
        parts: list[_Rows] = []
        actions: list[Actions] = []
        for batch in table.batches():
            rows, labels = self._rows(batch, columns, shared, candidates)
            parts.append(rows)
            actions += [self._labelled(rows, kind, values) for kind, values in labels.items()]
        return _grouped(parts, table), Actions.concat(actions)

    def actions(self, table: TableFile, columns: ActionColumns) -> Actions:
        """Return the actions of a table.

        Raises:
            WireError: as for `requests`.
        """
        for field in ("request_id", "time", "item", "kind", "value"):
            if getattr(columns, field):
                table.require(getattr(columns, field), f"actions.{field}")
        parts = []
        for batch in table.batches():
            request_ids, kinds = batch.texts(columns.request_id, MAX_TEXT_CHARS), batch.texts(columns.kind, MAX_TEXT_CHARS)
            items, times_ms = batch.ids(columns.item), batch.times_ms(columns.time, *self._clock)
            values = batch.numbers(columns.value) if columns.value else np.ones(len(batch))
            good = np.flatnonzero(batch.good)
            texts = [request_ids[row] for row in good], [kinds[row] for row in good]
            parts.append(Actions(texts[0], items[good], texts[1], times_ms[good], values[good]))
        return Actions.concat(parts)

    def _mapped(self, table: TableFile, columns: ImpressionColumns, has_lists: bool) -> tuple[Mapped, Mapped]:
        """Return the features of requests and of candidates that the table has."""
        features = [one for one in self._schema.all_features if one.source in ("user", "item", "context", "candidate")]
        unknown = sorted(set(columns.features) - {feature.name for feature in features})
        if unknown:
            raise WireError(f"impressions.features must be features of source user, item, context or candidate, got {unknown}")
        chosen = {feature.name: columns.features.get(feature.name, feature.name) for feature in features}
        found = {
            name: table.require(column, f"impressions.features.{name}") if name in columns.features else column
            for name, column in chosen.items()
            if column and (column in table.columns or name in columns.features)
        }
        of_items = [feature for feature in features if feature.source in _OF_CANDIDATES]
        if has_lists and (wrong := sorted(set(columns.features) & {feature.name for feature in of_items})):
            raise WireError(f"{table.path}: features of candidates must come with one row a candidate, got {wrong} with lists of items")
        shared = Mapped.of([feature for feature in features if feature.source not in _OF_CANDIDATES], found, self._schema.dense_dims)
        return shared, Mapped.of([] if has_lists else of_items, found, self._schema.dense_dims)

    def _rows(
        self, batch: TableBatch, columns: ImpressionColumns, shared: Mapped, candidates: Mapped
    ) -> tuple[_Rows, Mapping[str, npt.NDArray[np.float64]]]:
        bags, users = batch.bags(columns.item), batch.ids(columns.user)
        batch.require(columns.item, bags.lengths > 0, "must have a candidate")
        times_ms = batch.times_ms(columns.time, *self._clock)
        if columns.request_id:
            request_ids = batch.texts(columns.request_id, MAX_TEXT_CHARS)
        else:
            request_ids = [f"{user}-{time_ms}" for user, time_ms in zip(users.tolist(), times_ms.tolist(), strict=True)]
        of_requests, of_candidates = shared.read(batch), candidates.read(batch)
        labels = {kind: batch.numbers(column) for kind, column in columns.actions.items()}
        good = np.flatnonzero(batch.good)
        items = take(FeatureColumns(len(batch), {"": bags}), good).sparse[""]
        rows = _Rows(
            [request_ids[row] for row in good],
            times_ms[good],
            users[good],
            items.lengths.astype(np.int64),
            items.fids,
            take(of_requests, good),
            take(of_candidates, good) if candidates.sparse or candidates.dense else FeatureColumns(len(items.fids)),
        )
        return rows, {kind: values[good] for kind, values in labels.items()}

    def _labelled(self, rows: _Rows, kind: str, values: npt.NDArray[np.float64]) -> Actions:
        chosen = np.flatnonzero(values > 0)
        texts = [rows.request_ids[row] for row in chosen]
        return Actions(texts, rows.items[chosen], [kind] * len(chosen), rows.times_ms[chosen], values[chosen])


def _grouped(parts: list[_Rows], table: TableFile) -> Requests:
    """Return the rows of all parts as requests: rows of one request id are its candidates, in their order."""
    request_ids = [request_id for part in parts for request_id in part.request_ids]
    times_ms, users, lengths, items = (
        np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0, np.int64)])
        for name in ("times_ms", "users", "lengths", "items")
    )
    shared = FeatureColumns.concat([part.shared for part in parts])
    candidates = FeatureColumns.concat([part.candidates for part in parts])
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(request_id, len(numbers)) for request_id in request_ids], np.int64)
    firsts = np.full(len(numbers), len(codes), np.int64)
    np.minimum.at(firsts, codes, np.arange(len(codes)))
    differs = (times_ms != times_ms[firsts[codes]]) | (users != users[firsts[codes]]) if len(codes) else np.zeros(0, np.bool_)
    if differs.any():
        one = request_ids[int(np.flatnonzero(differs)[0])]
        raise WireError(f"{table.path}: rows of one request must have one time and one user, got several for request {one!r}")
    order = np.lexsort((np.arange(len(codes)), firsts[codes], times_ms)) if len(codes) else codes
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sorted_lengths = lengths[order]
    ends = np.cumsum(sorted_lengths)
    places = np.repeat(starts[order] - (ends - sorted_lengths), sorted_lengths) + np.arange(int(sorted_lengths.sum()))
    first_rows = np.flatnonzero(np.diff(firsts[codes][order], prepend=-1)) if len(codes) else codes
    offsets = np.concatenate([(ends - sorted_lengths)[first_rows], [len(items)]]).astype(np.int64)
    heads = order[first_rows]
    return Requests(
        [request_ids[row] for row in heads.tolist()],
        times_ms[heads],
        users[heads],
        offsets,
        items[places.astype(np.int64)],
        take(shared, heads),
        take(candidates, places.astype(np.int64)),
    )
