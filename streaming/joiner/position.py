"""The joiner's position in one partition, its stored forms, and the keys of the joiner's state in Kv.

The position is in two places: in the records of `examples`, as `Progress` of the step that wrote them, and in Kv, at every commit. The log
is the truth: `start` compares Kv with it. The keys begin with the job and its topic of examples: a job on other topics (`log.topic_prefix`)
has a state of its own. A position says for which tasks the labels of the waiting requests are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from monolith_py.errors import WireError
from monolith_streaming.joiner.watermark import WatermarkState

# Versions 3 and 4 came with waiting requests of other forms: `Position.has_state`.
_VERSION, _READABLE = 5, (3, 4, 5)
_PROGRESS_KEY = "joiner"
# Fields of a watermark in versions up to 4.
_FORMER = ("refusals", "is_confirmed", "furthest_seen_ms")
_Result = TypeVar("_Result")


class OpenPlace(NamedTuple):
    """Place from which a joiner without state must read again, so that it sees all records of every request not forgotten yet."""

    impressions: int  # offset
    actions: int  # offset
    examples: int  # offset: all examples of these requests are at or after it
    step: int  # number of the last step before `examples`


_BEGINNING = OpenPlace(0, 0, 0, 0)


@dataclass
class Progress:
    """Inputs processed by the joiner. A step writes its progress into its records."""

    offsets: list[int]  # to read on from, by `InputTopic`
    watermark: WatermarkState = field(default_factory=WatermarkState)
    # Watermark up to which every due request was processed: an impression with a deadline up to it is refused.
    advanced_ms: int | None = None
    # The same, also for the actions that wait for an impression; below `advanced_ms` while one that came late is due.
    closed_ms: int | None = None
    open: OpenPlace = _BEGINNING
    topics: list[str] = field(default_factory=list)  # ids of the inputs, by `InputTopic`: the offsets are theirs


@dataclass
class Position:
    """Progress, and the last step in the log: records of the next step follow at or after `examples_end`."""

    progress: Progress
    examples_end: int
    series: int = 0  # of the steps; 0: not numbered yet
    step: int = 0  # number of the last one
    epoch: int = 0  # number of the joiner's start
    commit: int = 0  # number of the commit to the store: no two have the same position
    topic: str = ""  # id of the topic of examples, whose offset `examples_end` is
    blocks: list[int] = field(default_factory=lambda: [0, 0])  # of waiting requests in the store: numbers [first, stop)
    tasks: list[str] = field(default_factory=list)  # bit t of a waiting request's labels is that of tasks[t]
    version: int = _VERSION

    @property
    def has_state(self) -> bool:
        """Return whether the waiting requests in the store have a form that this release reads."""
        return self.version == _VERSION

    @property
    def offsets(self) -> list[int]:
        """Return the offsets of the inputs to read on from, by `InputTopic`."""
        return self.progress.offsets

    @property
    def watermark(self) -> WatermarkState:
        """Return the state of the watermark."""
        return self.progress.watermark


@dataclass(frozen=True)
class StateKeys:
    """Keys in Kv of the state of one job on one topic of examples.

    >>> StateKeys("shop", "examples").position(3)
    'joiner:shop:examples:position:3'
    """

    job: str
    examples: str

    def blocks(self, partition: int) -> str:
        """Return the prefix of the keys of a partition's blocks of waiting requests; the number of the block follows."""
        return f"joiner:{self.job}:{self.examples}:block:{partition}:"

    def block(self, partition: int, number: int) -> str:
        """Return the key of one block of waiting requests."""
        return f"{self.blocks(partition)}{number}"

    def position(self, partition: int) -> str:
        """Return the key of a partition's position."""
        return f"joiner:{self.job}:{self.examples}:position:{partition}"

    def owner(self, partition: int) -> str:
        """Return the key of the name of the joiner that owns a partition's state."""
        return f"joiner:{self.job}:{self.examples}:owner:{partition}"

    @property
    def members(self) -> str:
        """Return the key of the list of the group's members."""
        return f"joiner:{self.job}:{self.examples}:members"

    def member(self, name: str) -> str:
        """Return the key of a member's heartbeat."""
        return f"joiner:{self.job}:{self.examples}:member:{name}"


def encode_position(position: Position) -> bytes:
    """Return the stored form of `position`."""
    return json.dumps({**vars(position), "progress": _fields_of(position.progress)}).encode()


def decode_position(value: bytes) -> Position:
    """Return the position in `value`.

    Raises:
        WireError: the bytes have another version or are no position.
    """

    def decode() -> Position:
        fields = json.loads(value)
        if fields["version"] not in _READABLE:
            raise WireError(f"position.version must be one of {_READABLE}, got {fields['version']}")
        return Position(**{**fields, "progress": _progress_from(fields["progress"])})

    return _decoded("position", value, decode)


def progress_to_metadata(progress: Progress) -> dict[str, str]:
    """Return the entry of the metadata of a step's records."""
    return {_PROGRESS_KEY: json.dumps(_fields_of(progress), separators=(",", ":"))}


def progress_from_metadata(metadata: Mapping[str, str]) -> Progress:
    """Return the progress in the metadata of a step's record.

    Raises:
        WireError: there is none, or it is no progress.
    """
    text = metadata.get(_PROGRESS_KEY, "")
    return _decoded("progress", text.encode(), lambda: _progress_from(json.loads(text)))


def _fields_of(progress: Progress) -> dict[str, Any]:
    """Return the fields for JSON; `dataclasses.asdict`, which copies them deeply, takes 0.2 ms."""
    return {**vars(progress), "watermark": vars(progress.watermark)}


def newest_event_ms(metadata: Mapping[str, str]) -> int:
    """Return the event time of the newest event that the joiner had read at a record's step, 0 if the record has no progress.

    The event time of a topic would not do: it lags behind by as many records as must agree. A clock that is ahead counts as the wall clock.
    """
    try:
        watermark = progress_from_metadata(metadata).watermark
    except WireError:
        return 0
    of_topics = [time_ms for time_ms in watermark.newest_ms if time_ms is not None]
    return max([0, *of_topics, *(min(time_ms, watermark.newest_at_ms) for recent in watermark.recent_ms for time_ms in recent)])


def _progress_from(fields: dict[str, Any]) -> Progress:
    progress = Progress(**fields)
    of_watermark = {name: value for name, value in fields["watermark"].items() if name not in _FORMER}
    return replace(progress, watermark=WatermarkState(**of_watermark), open=OpenPlace(*fields["open"]))


def _decoded(what: str, value: bytes, decode: Callable[[], _Result]) -> _Result:
    try:
        return decode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"{what} must be a JSON object with the fields of its class, got {value[:200]!r}: {error}") from None
