"""Verdicts of the guard: how far replicas may follow the updates, and which deltas they must pass over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monolith_py.errors import OffsetTrimmed, RecordsDamaged, TopicMissing
from monolith_py.io import Log, Record
from monolith_py.io.codec.messages import parse, serialize
from monolith_py.pb import parameter_sync_pb2 as pb


@dataclass(frozen=True)
class Verdict:
    """Judgement on the updates up to an offset; the newest one holds all that replicas need.

    >>> verdict = Verdict(good_until=40, refused=((10, 20),))
    >>> verdict.resume(10), verdict.has_refused(15), verdict.allows(20), verdict.allows(21)
    (20, True, False, True)
    """

    good_until: int  # offset in `updates`: deltas before it may be applied, apart from refused ones
    refused: tuple[tuple[int, int], ...] = ()  # [start, end) by offset, in order
    held: bool = False  # deltas from `good_until` on were judged, and are held
    reason: str = ""
    version: str = ""  # "generation.seq" of the newest state that was judged
    time_ms: int = 0  # wall clock
    examples: Mapping[int, int] = field(default_factory=dict)  # partition -> offset up to which examples were compared
    accepted_ms: int = 0  # wall clock at which an operator accepted a version
    forgotten: Mapping[int, int] = field(default_factory=dict)  # partition -> offset then: no example before it is compared

    def resume(self, offset: int) -> int:
        """Return the offset from which to read: `offset`, or the end of the refused deltas that begin there."""
        return next((end for start, end in self.refused if start == offset), offset)

    def has_refused(self, offset: int) -> bool:
        """Return whether a state with the deltas before `offset` is a refused one."""
        return any(start < offset <= end for start, end in self.refused) or (self.held and offset > self.good_until)

    def allows(self, offset: int) -> bool:
        """Return whether a state with the deltas before `offset` was judged good."""
        return offset <= self.good_until and not self.has_refused(offset)

    def place_before(self, offset: int) -> int:
        """Return the last place below `offset` at which the judgement changes, or `offset` if there is none."""
        return max((place for place in (*(start for start, _ in self.refused), self.good_until) if place < offset), default=offset)


def has_no_record(log: Log, topic: str, start: int, end: int) -> bool:
    """Return whether no record is at the offsets [start, end), as at the end of a transaction of Kafka.

    Raises:
        LogError: the log cannot be reached.
    """
    if start >= end:
        return True
    try:
        records = log.read(topic, 0, start, 1)
    except (OffsetTrimmed, RecordsDamaged):
        return False
    return not records or records[0].offset >= end


def is_allowed(log: Log, topic: str, verdict: Verdict, offset: int) -> bool:
    """Return whether a state with the updates before `offset` in `topic` was judged good.

    Raises:
        LogError: the log cannot be reached.
    """
    place = verdict.place_before(offset)
    return verdict.allows(offset) or (verdict.allows(place) and has_no_record(log, topic, place, offset))


def encode_verdict(verdict: Verdict) -> bytes:
    """Return `verdict` as bytes."""
    message = pb.Verdict(
        good_until=verdict.good_until,
        refused=[pb.OffsetRange(start=start, end=end) for start, end in verdict.refused],
        held=verdict.held,
        reason=verdict.reason,
        version=verdict.version,
        time_ms=verdict.time_ms,
        examples=verdict.examples,
        accepted_ms=verdict.accepted_ms,
        forgotten=verdict.forgotten,
    )
    return serialize(message)


def decode_verdict(value: bytes) -> Verdict:
    """Return the verdict in `value`.

    Raises:
        WireError: no verdict.
    """
    message = parse(pb.Verdict(), value)
    refused = tuple((one.start, one.end) for one in message.refused)
    judged = message.held, message.reason, message.version, message.time_ms, dict(message.examples)
    return Verdict(message.good_until, refused, *judged, message.accepted_ms, dict(message.forgotten))


def newest_verdict(log: Log, topic: str) -> Verdict | None:
    """Return the last verdict of the topic, None if it has none.

    Raises:
        WireError: the last record is no verdict.
        LogError: the topic is missing, or the log cannot be reached.
    """
    record = newest_record(log, topic)
    return None if record is None else decode_verdict(record.value)


def held_verdict(log: Log, topic: str) -> Verdict | None:
    """Return the last verdict of the topic if it holds updates; None if there is no topic.

    Raises:
        WireError: the last record is no verdict.
        LogError: the log cannot be reached.
    """
    try:
        verdict = newest_verdict(log, topic)
    except TopicMissing:
        return None
    return verdict if verdict is not None and verdict.held else None


def newest_record(log: Log, topic: str, partition: int = 0) -> Record | None:
    """Return the last record of a partition, None if it has none.

    Raises:
        LogError: the topic is missing, or the log cannot be reached.
    """
    start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    count = 1
    while end > start:
        # Kafka's last offsets may be holes.
        records, last = log.read(topic, partition, max(start, end - count), count, timeout_s=1.0), None
        while records:  # one read may give less than there is
            last = records[-1]
            records = log.read(topic, partition, last.offset + 1, count)
        if last is not None:
            return last
        if count >= end - start:
            return None
        count *= 4
    return None
