"""State of the joiner's loop for one partition, and the dead letters and metrics of a step of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from monolith_py.data.events import DeadLetter, LetterKind
from monolith_py.data.examples import ExampleKind
from monolith_py.io.log.topics import Topics, partition_of
from monolith_py.observe import metrics
from monolith_streaming.joiner.census import Census
from monolith_streaming.joiner.core_partition import CorePartition
from monolith_streaming.joiner.position import Position, encode_position
from monolith_streaming.joiner.request import Reason
from monolith_streaming.joiner.rules import MAX_EARLY
from monolith_streaming.joiner.step_writer import StepWriter
from monolith_streaming.joiner.watermark import InputTopic

# Refused actions that show a fault and become dead letters; the others are late and only counted.
_FAULTS = {
    Reason.NO_IMPRESSION: "action.request_id must be that of an impression, got none within window_s + max_out_of_orderness_s",
    Reason.NO_CANDIDATE: "action.item_id must be a candidate of its request, got another item",
    Reason.TOO_MANY: f"action.request_id must have at most {MAX_EARLY} actions before its impression, got more",
}
_TOO_LATE = "impression.time_ms must be within window_s of the event time of its topic before it, got an older one"

# Kind of an emission in the core -> label of its metric.
_KINDS = {int(kind): kind.name.lower() for kind in ExampleKind} | {255: "sampled_away"}


class Forward(NamedTuple):
    """An action to append to another partition."""

    partition: int
    time_ms: int
    value: bytes


@dataclass(eq=False)
class PartitionState:
    """State of the loop for one partition."""

    number: int
    joiner: CorePartition
    writer: StepWriter

    @property
    def position(self) -> Position:
        """Return the position after the records processed."""
        return self.joiner.position

    @property
    def encoded_position(self) -> bytes:
        """Return the stored form of the position."""
        return encode_position(self.position)

    def letters(self, topics: Topics, counts: Sequence[int]) -> Iterator[DeadLetter]:
        """Yield the dead letters of the open step; `counts`: numbers of partitions so far."""
        core = self.joiner.core
        of_input = {InputTopic.IMPRESSIONS: topics.impressions, InputTopic.ACTIONS: topics.actions}
        for topic, offset, value, rule in core.refused_records():
            yield DeadLetter(of_input[InputTopic(topic)], self.number, offset, value, rule)
        for request_id, offset, value, number in core.refused_actions():
            reason = Reason(number)
            if reason in _FAULTS and not self._is_elsewhere(request_id, reason, counts):
                fault, kind = self._fault(request_id, reason, counts), self._kind(request_id, reason, counts)
                yield DeadLetter(topics.actions, self.number, offset, value, fault, kind=kind)
        for _, offset, value, _ in core.too_late():
            yield DeadLetter(topics.impressions, self.number, offset, value, _TOO_LATE, kind=LetterKind.LATE)

    def forwards(self, counts: Sequence[int]) -> Iterator[Forward]:
        """Yield the actions of the open step whose impression may be in another partition, for each of these."""
        for request_id, time_ms, value in self.joiner.core.early_actions():
            # In the present partition of its request one that is too late for any request has a dead letter; elsewhere it has none.
            if self.number == partition_of(request_id, counts[-1]) and self.joiner.is_forgotten(time_ms):
                continue
            for place in sorted(places_of(request_id, counts) - {self.number}):
                yield Forward(place, time_ms, value)

    def observe(self, counts: Sequence[int]) -> None:
        """Count the examples and the refused actions of the open step."""
        kinds = self.joiner.core.emissions()[0].tolist()
        for kind, label in _KINDS.items():
            metrics.EXAMPLES_JOINED.labels(kind=label).inc(kinds.count(kind))
        for request_id, _, _, reason in self.joiner.core.refused_actions():
            metrics.ACTIONS_UNMATCHED.labels(reason=self._label(request_id, Reason(reason), counts)).inc()

    def count_read(self, census: Census) -> None:
        """Count the records that were processed since the last call."""
        read, unused_kinds, unused_values, repeated, impressions, by_kind = self.joiner.core.take_counts()
        metrics.IMPRESSIONS_READ.inc(read[InputTopic.IMPRESSIONS])
        metrics.ACTIONS_READ.inc(read[InputTopic.ACTIONS])
        metrics.ACTIONS_UNUSED.labels(reason="kind").inc(unused_kinds)
        metrics.ACTIONS_UNUSED.labels(reason="value").inc(unused_values)
        metrics.IMPRESSIONS_REPEATED.inc(repeated)
        census.note(impressions, dict(zip(self.joiner.kinds, by_kind, strict=True)))

    def _fault(self, request_id: str, reason: Reason, counts: Sequence[int]) -> str:
        """Return the rule that a refused action breaks; an action in another partition than its impression is told from one without."""
        if self._kind(request_id, reason, counts) == LetterKind.WRONG_PARTITION:
            expected = partition_of(request_id, counts[-1])
            return f"action must be in partition {expected} of {counts[-1]} by murmur2 of its request id, got {self.number}"
        return _FAULTS[reason]

    def _kind(self, request_id: str, reason: Reason, counts: Sequence[int]) -> LetterKind:
        """Return the kind of a refused action."""
        if reason in (Reason.LATE, Reason.EXPIRED):
            return LetterKind.LATE
        if reason == Reason.NO_IMPRESSION and self.number not in places_of(request_id, counts):
            return LetterKind.WRONG_PARTITION
        return LetterKind.BROKEN if reason == Reason.TOO_MANY else LetterKind.UNMATCHED

    def _is_elsewhere(self, request_id: str, reason: Reason, counts: Sequence[int]) -> bool:
        """Return whether an action without an impression here was forwarded to the partition of its request, where its fate is known."""
        return reason == Reason.NO_IMPRESSION and self.number in places_of(request_id, counts) - {partition_of(request_id, counts[-1])}

    def _label(self, request_id: str, reason: Reason, counts: Sequence[int]) -> str:
        """Return the reason for refusing an action as the label of its metric."""
        if self._kind(request_id, reason, counts) == LetterKind.WRONG_PARTITION:
            return str(LetterKind.WRONG_PARTITION)
        return "forwarded" if self._is_elsewhere(request_id, reason, counts) else reason.name.lower()


def places_of(request_id: str, counts: Sequence[int]) -> set[int]:
    """Return the partitions that a request has under these numbers of partitions.

    >>> sorted(places_of("r1", [2, 8]))
    [0, 4]
    """
    return {partition_of(request_id, count) for count in counts}
