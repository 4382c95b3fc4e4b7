"""Generations: lives of a trainer, numbered along the log. Each says from which state it starts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monolith_py.errors import OffsetTrimmed, RecordsDamaged, WireError
from monolith_py.io import Log
from monolith_py.sync.delta import Delta, Parent, decode_delta

_logger = logging.getLogger(__name__)

# Records of one read, and the longest wait for the next one where the log says that there is one.
_MAX_RECORDS, _WAIT_S = 16, 1.0


@dataclass(frozen=True)
class Generation:
    """One life of a trainer: its number, one more at each start, and the state from which it starts.

    >>> Generation(3, "trainer-0", Parent(generation=2, seq=40, offset=171)).parent.seq
    40
    """

    number: int
    trainer: str  # name of the process
    parent: Parent | None = None  # None: a new model


def next_generation(log: Log, topic: str, checkpoint_generation: int) -> int:
    """Return the generation of a trainer that starts now: above the one of its checkpoint and of the newest delta in the log.

    A job without a checkpoint passes 0, so the first generation is 1. Generations grow along the log, so only its newest delta counts.
    """
    start, end = log.start_offset(topic), log.end_offset(topic)
    newest, first = 0, end
    while newest == 0 and first > start:
        # Looks back twice as far each time: the newest offsets may be holes, or hold records that are no deltas.
        stop, first = first, max(start, end - 2 * (end - first) - 1)
        offset = first
        while offset < stop:
            try:
                records = log.read(topic, 0, offset, stop - offset)
            except RecordsDamaged as error:
                offset = error.next_offset
                continue
            if not records:
                break
            newest = max([newest, *(_generation(record.value) for record in records)])
            offset = records[-1].offset + 1
    return 1 + max(checkpoint_generation, newest)


def touch_lost(log: Log, topic: str, parent: Parent, touch: Callable[[Delta], None]) -> bool:
    """Call `touch` for each delta of rows after `parent`, which lost lives have published; return whether all of them are readable.

    Replicas have applied these deltas and the trainer has not: it must publish their fids again. If some are gone or damaged, it cannot,
    and replicas need a checkpoint.

    Raises:
        LogError: the log cannot be reached.
    """
    num_deltas, end = 0, log.end_offset(topic)
    try:
        if parent.offset > end:
            raise WireError(f"{topic!r} must reach offset {parent.offset}, got {end} for its end: it is another log, or has lost records")
        for delta in _deltas(log, topic, parent.offset, end):
            touch(delta)
            num_deltas += 1
    except (WireError, OffsetTrimmed, RecordsDamaged) as error:
        _logger.error("updates after the checkpoint cannot be taken back, replicas must load a new checkpoint: %s", error)
        return False
    if num_deltas:
        _logger.info("publishing again what %d deltas after offset %d have changed", num_deltas, parent.offset)
    return True


def _deltas(log: Log, topic: str, offset: int, end: int) -> Iterator[Delta]:
    """Yield the deltas [offset, end)."""
    while offset < end:
        records = log.read(topic, 0, offset, _MAX_RECORDS, _WAIT_S)
        if not records:
            return  # offsets without a record
        for record in records:
            yield decode_delta(record.value)
        offset = records[-1].offset + 1


def _generation(value: bytes) -> int:
    try:
        return decode_delta(value).generation
    except WireError:
        return 0
