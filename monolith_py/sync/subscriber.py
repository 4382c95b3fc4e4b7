"""Reads deltas from the log in order and raises at the first missing one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from monolith_py.errors import DeltaGap, RecordsDamaged, WireError
from monolith_py.io import Log
from monolith_py.sync.delta import Delta, decode_delta

_logger = logging.getLogger(__name__)

# Records of one read: at the default 8,192 fp16 rows of dim 16 in a delta about 5 MB.
_MAX_RECORDS = 16


class Subscriber:
    """Follows the topic of updates from `offset` on; `next_delta` is the (generation, seq) expected there. For one thread.

    After any error but `LogError`, further reads cannot give the trainer's state: start again from a newer checkpoint.
    """

    def __init__(self, log: Log, topic: str, *, offset: int, next_delta: tuple[int, int]) -> None:
        self._log, self._topic = log, topic
        self._offset, self._next_delta = offset, next_delta

    @property
    def offset(self) -> int:
        """Return the offset of the next record to read."""
        return self._offset

    @property
    def next_delta(self) -> tuple[int, int]:
        """Return (generation, seq) of the next delta to apply."""
        return self._next_delta

    def read(self, timeout_s: float) -> Iterator[Delta]:
        """Yield the next deltas, at most 16; wait up to `timeout_s` seconds for the first.

        A delta counts as applied once the caller asks for the one after it. If the caller raises or breaks instead, the next `read` yields
        the delta again. Deltas applied before, and deltas of an older generation (from a trainer that was replaced), are skipped.

        Raises:
            DeltaGap: a delta is missing.
            WireError: a record is no delta, or damaged.
            OffsetTrimmed, LogError: from the log.
        """
        try:
            records = self._log.read(self._topic, 0, self._offset, _MAX_RECORDS, timeout_s)
        except RecordsDamaged as error:
            raise WireError(str(error)) from error
        for record in records:
            try:
                delta = decode_delta(record.value)
            except WireError as error:
                raise WireError(f"{self._topic!r}[0] offset {record.offset}: {error}") from error
            if self._is_next(delta):
                yield delta
                self._next_delta = (delta.generation, delta.seq + 1)
            self._offset = record.offset + 1

    def _is_next(self, delta: Delta) -> bool:
        """Return whether `delta` is the next to apply, False if it must be skipped.

        Raises:
            DeltaGap: a delta is missing before it.
        """
        generation, seq = self._next_delta
        if delta.generation < generation:
            _logger.warning("skipped delta (%d, %d) of an older generation, at (%d, %d)", delta.generation, delta.seq, generation, seq)
            return False
        expected = (generation, seq) if delta.generation == generation else (delta.generation, 0)
        if delta.seq > expected[1]:
            raise DeltaGap(expected, (delta.generation, delta.seq))
        return delta.seq == expected[1]
