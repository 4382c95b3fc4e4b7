"""Generations: the number that a trainer puts on its deltas, one more at each start."""

from __future__ import annotations

from monolith_py.errors import RecordsDamaged, WireError
from monolith_py.io import Log
from monolith_py.sync.delta import decode_delta


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


def _generation(value: bytes) -> int:
    try:
        return decode_delta(value).generation
    except WireError:
        return 0
