"""State of the joiner's loop for one partition, and the dead letters of a step of it."""

from __future__ import annotations

from dataclasses import dataclass

from monolith_py.data.events import DeadLetter
from monolith_py.io.log.topics import Topics, partition_of
from monolith_streaming.joiner.lookback import Lookback
from monolith_streaming.joiner.position import OpenPlace, Position, encode_position
from monolith_streaming.joiner.request import Reason, SeenAction
from monolith_streaming.joiner.request_joiner import RequestJoiner
from monolith_streaming.joiner.rules import MAX_EARLY, Rules
from monolith_streaming.joiner.step_writer import StepWriter
from monolith_streaming.joiner.watermark import Watermark

# Refused actions that show a fault and become dead letters; the others are late and only counted.
_FAULTS = {
    Reason.NO_IMPRESSION: "action.request_id must be that of an impression, got none within window_s + max_out_of_orderness_s",
    Reason.NO_CANDIDATE: "action.item_id must be a candidate of its request, got another item",
    Reason.TOO_MANY: f"action.request_id must have at most {MAX_EARLY} actions before its impression, got more",
}
_TOO_LATE = "impression.time_ms must be within window_s + allowed_lateness_s of the watermark, got an older one"


@dataclass
class PartitionState:
    """State of the loop for one partition."""

    number: int
    position: Position
    watermark: Watermark
    joiner: RequestJoiner
    writer: StepWriter
    lookback: Lookback
    owner: bytes  # this joiner's name in the store: no other one writes there while it is this

    @property
    def encoded_position(self) -> bytes:
        """Return the stored form of the position."""
        return encode_position(self.position)

    def resume(self, rules: Rules) -> None:
        """Go on from the position, with the requests that the joiner remembers now."""
        progress = self.position.progress
        self.watermark.restore(progress.watermark)
        self.joiner.advanced_ms = progress.advanced_ms
        remembered_ms = rules.window_ms + rules.allowed_lateness_ms
        self.lookback = Lookback(progress.open, self.joiner.needed_until_ms, remembered_ms)

    def note_progress(self) -> None:
        """Write into the position how far requests are closed, before a commit."""
        progress = self.position.progress
        self.joiner.reach(progress.watermark.watermark_ms)
        progress.advanced_ms, progress.closed_ms = self.joiner.advanced_ms, self.joiner.closed_ms

    def note_step(self) -> None:
        """Move the place from which a state must be built again, after an append."""
        position = self.position
        place = OpenPlace(position.offsets[0], position.offsets[1], position.examples_end, position.step)
        position.progress.open = self.lookback.commit(place, position.progress.closed_ms)

    def letters(self, topics: Topics, num_partitions: int) -> list[DeadLetter]:
        """Return the dead letters of the open step, without those of the intake."""
        letters = [
            DeadLetter(topics.actions, self.number, seen.offset, seen.value, self.fault(seen, reason, num_partitions))
            for seen, reason in self.joiner.refused
            if reason in _FAULTS
        ]
        letters += [
            DeadLetter(topics.impressions, self.number, seen.offset, seen.impression.value, _TOO_LATE) for seen in self.joiner.too_late
        ]
        return letters

    def fault(self, seen: SeenAction, reason: Reason, num_partitions: int) -> str:
        """Return the rule that a refused action breaks; an action in another partition than its impression is told from one without."""
        expected = partition_of(seen.action.request_id, num_partitions)
        if reason == Reason.NO_IMPRESSION and expected != self.number:
            return f"action must be in partition {expected} of {num_partitions} by murmur2 of its request id, got {self.number}"
        return _FAULTS[reason]

    def label(self, seen: SeenAction, reason: Reason, num_partitions: int) -> str:
        """Return the reason for refusing an action as the label of its metric."""
        if reason == Reason.NO_IMPRESSION and partition_of(seen.action.request_id, num_partitions) != self.number:
            return "wrong_partition"
        return reason.name.lower()
