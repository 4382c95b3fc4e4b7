"""Impressions served by a replica, actions of users, the rule on their event time, and dead letters.

Letters: B candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from monolith_py.config import LogConfig
from monolith_py.data.columns import FeatureColumns, FloatArray, Int64Array


@dataclass(frozen=True)
class Impression:
    """One served request: its candidates and the features that scored them."""

    request_id: str
    time_ms: int
    user_id: int
    item_ids: Int64Array  # (B,)
    shared: FeatureColumns  # one row
    candidates: FeatureColumns  # B rows
    scores: FloatArray  # (B, tasks)
    task_names: tuple[str, ...] = ()
    model_version: str = ""
    arm: str = ""


@dataclass(frozen=True)
class Action:
    """An action of a user on one candidate of one request."""

    request_id: str
    item_id: int
    kind: str
    time_ms: int
    value: float = 1.0


class LetterKind(StrEnum):
    """Kind of a refusal."""

    BROKEN = "broken"  # the record breaks a rule of its format, of its clock or of its topic
    LATE = "late"  # the record came too late to be joined
    UNMATCHED = "unmatched"  # an action without its impression, or on another item
    WRONG_PARTITION = "wrong_partition"  # an action where its impression cannot be


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be used."""

    topic: str
    partition: int
    offset: int
    value: bytes  # of the record, or its first bytes
    reason: str
    time_ms: int = 0  # wall clock at which it was put aside
    value_bytes: int = 0  # of the whole record if `value` is cut, else 0
    kind: LetterKind = LetterKind.BROKEN


@dataclass(frozen=True)
class Reinjection:
    """Dead letters that were put back to their topic, or are about to be."""

    id: str
    state: str  # begun, done or withdrawn
    letters: tuple[int, ...]  # offsets in the topic of dead letters
    topic: str
    partition: int
    start: int  # offset at or after which the records are
    offsets: tuple[int, ...] = ()  # of the records, when done
    time_ms: int = 0  # wall clock


# Present times in seconds, 2001 to 2065: as milliseconds they are in January 1970.
_SECONDS = range(10**9, 3 * 10**9)


@dataclass(frozen=True)
class EventTimeRule:
    """Rule on event time, one for joiner, replay and trainer: at most `max_skew_ms` ahead of the wall clock, and not in seconds.

    >>> EventTimeRule(1_000).fault(5_001, wall_ms=4_000)
    'time_ms must be at most 1000 ms ahead of the wall clock 4000, got 5001'
    """

    max_skew_ms: int

    @staticmethod
    def of(config: LogConfig) -> EventTimeRule:
        """Return the rule of the job with the log `config`."""
        return EventTimeRule(round(config.max_clock_skew_s * 1000))

    @property
    def seconds(self) -> range:
        """Return the times that are taken for seconds."""
        return _SECONDS

    def may_break(self, first_ms: int, last_ms: int, wall_ms: int) -> bool:
        """Return whether a time in [first_ms, last_ms] breaks a rule of `fault`."""
        return last_ms > wall_ms + self.max_skew_ms or (last_ms >= _SECONDS.start and first_ms < _SECONDS.stop)

    def broken(self, times_ms: Int64Array, wall_ms: int) -> npt.NDArray[np.bool_]:
        """Return for each event time whether `fault` has a rule that it breaks."""
        in_seconds = (times_ms >= _SECONDS.start) & (times_ms < _SECONDS.stop)
        broken: npt.NDArray[np.bool_] = (times_ms > wall_ms + self.max_skew_ms) | in_seconds
        return broken

    def fault(self, time_ms: int, wall_ms: int) -> str | None:
        """Return the rule that an event time breaks, None if it breaks none."""
        if time_ms > wall_ms + self.max_skew_ms:
            return f"time_ms must be at most {self.max_skew_ms} ms ahead of the wall clock {wall_ms}, got {time_ms}"
        if time_ms in _SECONDS:
            return f"time_ms must be in milliseconds, got {time_ms}: a time of today in seconds"
        return None
