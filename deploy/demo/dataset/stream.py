"""Stream of a demo as the driver sees it: requests with candidates, actions on them, features. Each data set has its own classes for these.

Letters: R requests in time order, C candidates of all requests, M moments of actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FeatureColumns
from monolith_py.data.events import Action, Impression

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class RequestStream(Protocol):
    """Requests in time order. The candidates of request r are rows offsets[r] to offsets[r + 1] of arrays over all candidates."""

    @property
    def times_ms(self) -> Int64Array:
        """Return the time of each request in milliseconds, sorted: int64 (R,)."""
        ...

    @property
    def users(self) -> Int64Array:
        """Return the user id of each request: int64 (R,)."""
        ...

    @property
    def offsets(self) -> Int64Array:
        """Return the first candidate of each request, and the end of the last: int64 (R + 1,)."""
        ...

    @property
    def action_requests(self) -> Int64Array:
        """Return the request of each moment of actions: int64 (M,)."""
        ...

    @property
    def action_times_ms(self) -> Int64Array:
        """Return the time of each moment in milliseconds: int64 (M,)."""
        ...

    @property
    def num_actions(self) -> Int64Array:
        """Return the number of actions at each moment: int64 (M,)."""
        ...

    def __len__(self) -> int: ...

    def request_id(self, index: int) -> str:
        """Return the id of one request."""
        ...

    def candidates(self, index: int) -> list[int]:
        """Return the item ids of one request."""
        ...

    def context(self, index: int) -> dict[str, list[int]]:
        """Return the fids of the request's own features, by name."""
        ...

    def actions(self, index: int) -> list[Action]:
        """Return the actions of one moment."""
        ...


class ImpressionSource(Protocol):
    """Requests in the form that a replica logs."""

    def impressions(self, indices: range) -> Iterator[Impression]:
        """Yield the impressions at `indices`, without scores."""
        ...


class Dataset(Protocol):
    """Data of one run: a stream, the first `num_history` requests of which are history, its labels and its features."""

    @property
    def stream(self) -> RequestStream:
        """Return the stream."""
        ...

    @property
    def num_history(self) -> int:
        """Return the number of requests of history."""
        ...

    @property
    def labels(self) -> dict[str, BoolArray]:
        """Return the labels by task, the main task first: bool (C,) each."""
        ...

    @property
    def users(self) -> Mapping[int, FeatureColumns]:
        """Return the stored features of users at the start of the live phase, by id."""
        ...

    @property
    def items(self) -> Mapping[int, FeatureColumns]:
        """Return the stored features of items at the start of the live phase, by id."""
        ...

    @property
    def requests(self) -> ImpressionSource:
        """Return the source of the impressions of history."""
        ...

    def when(self, index: int) -> str:
        """Return the time of one request in words, for the progress bar."""
        ...
