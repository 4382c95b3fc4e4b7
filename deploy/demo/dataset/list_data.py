"""Data of `make demo-list`: the generated stream, with the features that a news site has.

Letters: C candidates of a request.

Stored features of an item are its topic, its publisher and the bucket of its age; the site renews the age at each hour, for the service
has no features that depend on both item and request. Time of the site is world time of `listwise`, with drift 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from monolith_demo.dataset.listwise import DAY_MS, HOUR_MS, START_MS, ListStream, generate, hour_of_day
from monolith_demo.dataset.stream import BoolArray, Int64Array
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression

NUM_REQUESTS, DAYS, HISTORY_DAYS = 25_000, 3, 2
_SEED = 0
# First hour of each bucket of age but the first.
_AGE_EDGES_H = (1, 2, 3, 5, 9, 17)
_LIFE_H = 36


@dataclass(frozen=True)
class ListData:
    """The stream, the first `num_history` requests of which are history, and its features."""

    stream: ListStream
    num_history: int

    @property
    def labels(self) -> dict[str, BoolArray]:
        """Return the labels of the one task: bool (C,) over all candidates."""
        return {"click": self.stream.clicks}

    @property
    def users(self) -> dict[int, FeatureColumns]:
        """Return no stored features: a user has an id only."""
        return {}

    @property
    def items(self) -> dict[int, FeatureColumns]:
        """Return the stored features of items in the first hour of the live phase, by id."""
        return self.items_in_hour(int(self.stream.times_ms[self.num_history] - START_MS) // HOUR_MS)

    @property
    def requests(self) -> ListData:
        """Return the source of the impressions: itself."""
        return self

    def items_in_hour(self, hour: int) -> dict[int, FeatureColumns]:
        """Return the stored features of all items shown in one hour since the start, by id."""
        births_h = np.floor(self.stream.item_births_h).astype(np.int64)
        shown = np.flatnonzero((births_h <= hour) & (births_h >= hour - _LIFE_H))
        columns = self._columns(shown + 1, hour - births_h[shown])
        return {int(item) + 1: columns.slice(row, row + 1) for row, item in enumerate(shown)}

    def hours(self) -> Iterator[tuple[int, int]]:
        """Yield (start in milliseconds, hour since the start) of each hour that begins in the live phase, its first moment excluded."""
        first_ms, last_ms = int(self.stream.times_ms[self.num_history]), int(self.stream.times_ms[-1])
        for hour in range((first_ms - START_MS) // HOUR_MS + 1, (last_ms - START_MS) // HOUR_MS + 1):
            yield START_MS + hour * HOUR_MS, hour

    def impressions(self, indices: range) -> Iterator[Impression]:
        """Yield the impressions at `indices` with all features, without scores."""
        stream = self.stream
        for index in indices:
            rows = slice(stream.offsets[index], stream.offsets[index + 1])
            user, items = int(stream.users[index]), stream.items[rows]
            shared = {"user_id": [user], **stream.context(index)}
            yield Impression(
                request_id=stream.request_id(index),
                time_ms=int(stream.times_ms[index]),
                user_id=user,
                item_ids=items,
                shared=FeatureColumns(1, {name: _column(np.array(fids, np.int64)) for name, fids in shared.items()}),
                candidates=self._columns(items, stream.ages_h[rows], with_id=True),
                scores=np.zeros((len(items), 0), np.float32),
            )

    def when(self, index: int) -> str:
        """Return the hour of one request, for the progress bar."""
        return f"{hour_of_day(int(self.stream.times_ms[index])):02d}:00"

    def _columns(self, items: Int64Array, ages_h: Int64Array, *, with_id: bool = False) -> FeatureColumns:
        """Return the features of items (C,) at their ages: C rows."""
        sparse = {
            "topic": _column(self.stream.item_topics[items - 1]),
            "publisher": _column(self.stream.item_publishers[items - 1]),
            "age": _column(age_bucket(ages_h)),
        }
        return FeatureColumns(len(items), {"item_id": _column(items), **sparse} if with_id else sparse)


def load_list_data(num_requests: int = NUM_REQUESTS) -> ListData:
    """Generate the stream of the demo: three days from noon to noon, the last of which is the live phase."""
    stream = generate(_SEED, num_requests=num_requests, days=DAYS)
    return ListData(stream, int(np.searchsorted(stream.times_ms, START_MS + HISTORY_DAYS * DAY_MS)))


def age_bucket(ages_h: Int64Array) -> Int64Array:
    """Return the bucket of each age in hours: int64 of the same shape.

    >>> age_bucket(np.array([0, 1, 2, 3, 4, 5, 16, 17, 35])).tolist()
    [0, 1, 2, 3, 3, 4, 5, 6, 6]
    """
    return np.searchsorted(_AGE_EDGES_H, ages_h, side="right").astype(np.int64)


def _column(fids: Int64Array) -> SparseColumn:
    return SparseColumn(fids, np.ones(len(fids), np.int32))
