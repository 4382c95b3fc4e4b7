"""The end of a partition of `examples`: the joiner's last step there, and what its examples after a position say of candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from monolith_py.data.examples import ExampleBatch
from monolith_py.data.label_bits import LabelBits
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import RecordsDamaged, StateMismatch, WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import decode_examples, examples_metadata, step_from_metadata
from monolith_streaming.joiner.position import Position, Progress, progress_from_metadata

_READ_RECORDS = 256
_PART_REQUESTS = 2000


@dataclass(frozen=True)
class FoundStep:
    """A joiner's record in the log."""

    step: JoinerStep
    progress: Progress


@dataclass
class Tail:
    """Whole steps in the log after a position: the last one, and the offset of the first."""

    last: FoundStep | None = None
    start: int = 0


# Names of the tasks, and the places of their labels.
Tasks = tuple[Sequence[str], LabelBits]
# Request id -> item id -> labels in these places.
Facts = dict[str, dict[int, int]]


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


def read_tail(log: Log, topic: str, partition: int, position: Position) -> Tail:
    """Return the steps after `position`.

    Raises:
        StateMismatch: they do not follow it: another series, a step missing, or records trimmed that may have been steps.
    """
    tail, before = Tail(start=position.examples_end), JoinerStep(position.series, position.step, 0, True, 0)
    for record in records_from(log, topic, partition, position.examples_end):
        found = _found(record)
        if found is None:
            continue
        if not before.is_followed_by(found.step):
            raise StateMismatch(f"{topic!r}[{partition}] offset {record.offset} must have what follows {before}, got {found.step}")
        tail.last, before = found, found.step
    if not before.is_last:
        raise StateMismatch(f"{topic!r}[{partition}] must end with a whole step, got {before}")
    start = log.start_offset(topic, partition)
    if start > position.examples_end and tail.last is None:
        rule = f"must have its records from {position.examples_end} on, where the state in the store ends"
        raise StateMismatch(f"{topic!r}[{partition}] {rule}, got {start}: they were trimmed, and examples may have been among them")
    return tail


def facts_after(log: Log, topic: str, partition: int, tail: Tail, tasks: Tasks) -> Iterator[Facts]:
    """Yield what the examples of `tail` say of their candidates, a part at a time; a candidate may be in several parts."""
    facts: Facts = {}
    for record in records_from(log, topic, partition, tail.start):
        if _found(record) is None:
            continue
        _add(facts, decode_examples(record.value), tasks)
        if len(facts) >= _PART_REQUESTS:
            yield facts
            facts = {}
    if facts:
        yield facts


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


def _add(facts: Facts, examples: ExampleBatch, tasks: Tasks) -> None:
    names, bits_of = tasks
    labels = [0] * len(examples)
    for place, task in enumerate(names):
        if task in examples.labels:
            labels = [one | bits for one, bits in zip(labels, bits_of.of_values(examples.labels[task].tolist(), place), strict=True)]
    for request_id, item_id, bits in zip(examples.request_ids, examples.item_ids.tolist(), labels, strict=True):
        of_request = facts.setdefault(request_id, {})
        of_request[item_id] = bits_of.merged(of_request.get(item_id, 0), bits)
