"""State of one request of the joiner's state machine, and the results of its steps. Letters: B candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from monolith_py.data.events import Action
from monolith_py.data.examples import ExampleKind
from monolith_streaming.joiner.negative_rates import Bags

# Before every event time.
NEVER_MS = -(1 << 62)


class Status(IntEnum):
    """State of one candidate."""

    WAITING = 0
    EMITTED = 1
    SAMPLED_AWAY = 2
    REPEATED = 3  # an earlier candidate of the request has the same item and makes the examples
    KNOWN = 4  # its labels are known; it waits for the other candidates of its request


class Reason(IntEnum):
    """Reason for refusing an action."""

    NO_IMPRESSION = 0
    NO_CANDIDATE = 1
    LATE = 2
    EXPIRED = 3
    TOO_MANY = 4


class SeenAction(NamedTuple):
    """An action and its offset in its partition."""

    action: Action
    offset: int
    value: bytes  # of the record
    clock_ms: int = NEVER_MS  # event time of its topic before it


class LateAction(NamedTuple):
    """An action after the deadline on a candidate that still waits."""

    row: int
    seen: SeenAction


class Emission(NamedTuple):
    """One example, or one negative that was sampled away (`kind` None)."""

    row: int
    kind: ExampleKind | None
    labels: int  # bit t: label of task t
    known_ms: int  # event time at which the labels were known
    is_first: bool  # the first emission of this candidate
    sample_rate: float = 1.0  # below 1 for a sampled negative, and for the retraction of one


@dataclass
class Outcome:
    """Result of steps of the state machine."""

    emissions: list[Emission] = field(default_factory=list)
    refused: list[tuple[SeenAction, Reason]] = field(default_factory=list)


@dataclass(slots=True)
class Request:
    """State of one request: B candidates once its impression has arrived, none before."""

    request_id: str
    time_ms: int = 0  # event time of the impression
    deadline_ms: int = 0
    item_ids: Sequence[int] = ()  # (B,)
    labels: list[int] = field(default_factory=list)  # (B,) positive tasks so far
    statuses: list[int] = field(default_factory=list)  # (B,) Status
    early: list[SeenAction] = field(default_factory=list)  # before the impression, in order of arrival
    late: list[LateAction] = field(default_factory=list)  # for candidates that wait, in order of arrival
    clock_ms: int = NEVER_MS  # event time of the topic before the impression
    features: Bags | None = field(default=None, compare=False)  # of the impression, for rates of negatives by value

    @property
    def has_arrived(self) -> bool:
        """Return whether the impression has arrived."""
        return bool(self.statuses)

    @property
    def is_waiting(self) -> bool:
        """Return whether a candidate was not emitted yet."""
        return Status.WAITING in self.statuses or Status.KNOWN in self.statuses

    @property
    def num_waiting(self) -> int:
        """Return the number of candidates that were not emitted yet."""
        return self.statuses.count(Status.WAITING) + self.statuses.count(Status.KNOWN)
