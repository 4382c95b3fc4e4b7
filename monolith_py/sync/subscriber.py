"""Reads deltas from the log in order and hands them to a sink; a hole in their numbers never goes unseen."""

from __future__ import annotations

import logging
from typing import Protocol

from monolith_py.errors import DeltaGap, WireError
from monolith_py.io import Log
from monolith_py.sync.delta import Delta, decode_delta

logger = logging.getLogger(__name__)

# Read at once: at the default 8,192 fp16 rows of dim 16 in a delta about 5 MB.
_MAX_RECORDS = 16


class Sink(Protocol):
    """What takes deltas."""

    def apply(self, delta: Delta) -> None:
        """Apply one delta, which follows the one before without a gap."""
        ...


class Subscriber:
    """Follows the topic of updates from `offset` on, where the sink stands at `position` (generation, next seq). For one thread.

    After any error but `LogError` the sink's state cannot be brought up to date by reading on: start again from a newer checkpoint.
    """

    def __init__(self, log: Log, topic: str, sink: Sink, *, offset: int, position: tuple[int, int]) -> None:
        self._log, self._topic, self._sink = log, topic, sink
        self._offset, self._position = offset, position

    @property
    def offset(self) -> int:
        """Return the offset of the next record to read."""
        return self._offset

    @property
    def position(self) -> tuple[int, int]:
        """Return (generation, seq) of the next delta to apply."""
        return self._position

    def poll(self, timeout_s: float) -> int:
        """Apply the deltas that are there, some records at most; wait up to `timeout_s` for the first. Return how many were applied.

        A delta that was applied before, and one of an older generation (a trainer that did not notice it was replaced), is skipped.

        Raises:
            DeltaGap: a delta is missing.
            WireError: a record is no delta, or the sink refuses it.
            OffsetTrimmed, LogError: from the log.
        """
        num_applied = 0
        for record in self._log.read(self._topic, 0, self._offset, _MAX_RECORDS, timeout_s):
            try:
                delta = decode_delta(record.value)
                if self._follows(delta):
                    self._sink.apply(delta)
                    self._position = (delta.generation, delta.seq + 1)
                    num_applied += 1
            except WireError as error:
                raise WireError(f"{self._topic!r}[0] offset {record.offset}: {error}") from error
            self._offset = record.offset + 1
        return num_applied

    def _follows(self, delta: Delta) -> bool:
        """Return whether `delta` is the next one; False for one that is to be skipped."""
        generation, seq = self._position
        if delta.generation < generation:
            logger.warning("skipped delta (%d, %d) of an older generation, at (%d, %d)", delta.generation, delta.seq, generation, seq)
            return False
        expected = (generation, seq) if delta.generation == generation else (delta.generation, 0)
        if delta.seq > expected[1]:
            raise DeltaGap(expected, (delta.generation, delta.seq))
        return delta.seq == expected[1]
