"""The end of a partition of `examples`: the joiner's last step there, and the examples that follow a position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from monolith_py.data.examples import ExampleBatch
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import RecordsDamaged, StateMismatch, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_examples, examples_metadata, step_from_metadata
from monolith_streaming.joiner.position import Position, Progress, progress_from_metadata

_READ_RECORDS = 256


@dataclass(frozen=True)
class FoundStep:
    """A joiner's record in the log."""

    step: JoinerStep
    progress: Progress


@dataclass
class Tail:
    """Whole steps in the log after a position: the last one, and what they say of each candidate."""

    last: FoundStep | None = None
    facts: dict[str, dict[int, int]] = field(default_factory=dict)  # request id -> item id -> positive tasks, bit t for task t

    @property
    def num_examples(self) -> int:
        """Return the number of candidates with an example."""
        return sum(map(len, self.facts.values()))


def last_step(log: Log, topic: str, partition: int, start: int) -> FoundStep | None:
    """Return the joiner's last record from offset `start` on, None if there is none. Records of other writers are passed over."""
    start, end = max(start, log.start_offset(topic, partition)), log.end_offset(topic, partition)
    first = end
    while first > start:
        # Looks back twice as far each time: the last offsets may be holes, or records of a replay.
        stop, first = first, max(start, end - 2 * (end - first) - 1)
        found = [step for record in records_from(log, topic, partition, first, stop) if (step := _found(record)) is not None]
        if found:
            return found[-1]
    return None


def read_tail(log: Log, topic: str, partition: int, position: Position, tasks: Sequence[str]) -> Tail:
    """Return the steps after `position`.

    Raises:
        StateMismatch: they do not follow it: another series, a step missing, or records trimmed that may have been steps.
    """
    tail, before = Tail(), JoinerStep(position.series, position.step, 0, True, 0)
    for record in records_from(log, topic, partition, position.examples_end):
        found = _found(record)
        if found is None:
            continue
        if not before.is_followed_by(found.step):
            raise StateMismatch(f"{topic!r}[{partition}] offset {record.offset} must have what follows {before}, got {found.step}")
        _add(tail.facts, decode_examples(record.value), tasks)
        tail.last, before = found, found.step
    if not before.is_last:
        raise StateMismatch(f"{topic!r}[{partition}] must end with a whole step, got {before}")
    start = log.start_offset(topic, partition)
    if start > position.examples_end and tail.last is None:
        rule = f"must have its records from {position.examples_end} on, where the state in the store ends"
        raise StateMismatch(f"{topic!r}[{partition}] {rule}, got {start}: they were trimmed, and examples may have been among them")
    return tail


def records_from(log: Log, topic: str, partition: int, start: int, stop: int | None = None) -> Iterator[Record]:
    """Yield the records from `start` on, up to `stop`, by default the present end; pass over those that are damaged or gone."""
    offset = max(start, log.start_offset(topic, partition))
    stop = log.end_offset(topic, partition) if stop is None else stop
    while offset < stop:
        try:
            records = log.read(topic, partition, offset, min(_READ_RECORDS, stop - offset))
        except RecordsDamaged as error:
            offset = error.next_offset
            continue
        records = [record for record in records if record.offset < stop]
        if not records:
            return
        yield from records
        offset = records[-1].offset + 1


def has_foreign(log: Log, topic: str, partition: int) -> bool:
    """Return whether the partition has a record without metadata: that of a joiner of an older release, or of a program of one's own."""
    return any(not _metadata(record.value) for record in records_from(log, topic, partition, 0))


def _found(record: Record) -> FoundStep | None:
    metadata = _metadata(record.value)
    step = step_from_metadata(metadata)
    return None if step is None else FoundStep(step, progress_from_metadata(metadata))


def _metadata(value: bytes) -> Mapping[str, str]:
    try:
        return examples_metadata(value)
    except WireError:
        return {}


def _add(facts: dict[str, dict[int, int]], examples: ExampleBatch, tasks: Sequence[str]) -> None:
    labels = [0] * len(examples)
    for index, task in enumerate(tasks):
        for row, value in enumerate(examples.labels[task].tolist() if task in examples.labels else ()):
            labels[row] |= int(value) << index
    for request_id, item_id, bits in zip(examples.request_ids, examples.item_ids.tolist(), labels, strict=True):
        of_request = facts.setdefault(request_id, {})
        of_request[item_id] = of_request.get(item_id, 0) | bits
