"""Reads deltas from the log in order and raises at the first missing or contradictory one."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator

from monolith_py.errors import DeltaConflict, DeltaGap, ModelReplaced, RecordsDamaged, WireError
from monolith_py.io import Log
from monolith_py.sync.delta import Delta, decode_delta

_logger = logging.getLogger(__name__)

# Records of one read: at the default 8,192 fp16 rows of dim 16 in a delta about 5 MB.
_MAX_RECORDS = 16
# Newest deltas whose copies are compared with them.
_MAX_KNOWN = 4096


class Subscriber:
    """Follows the topic of updates from `offset` on; `next_delta` is the (generation, seq) expected there. For one thread.

    After any error but `LogError`, further reads cannot give the trainer's state: start again from a newer checkpoint.
    """

    def __init__(self, log: Log, topic: str, *, offset: int, next_delta: tuple[int, int]) -> None:
        self._log, self._topic = log, topic
        self._offset, self._next_delta = offset, next_delta
        self._is_at_end = False
        self._trainer: str | None = None  # of the present generation, None before its first delta here
        self._known: OrderedDict[tuple[int, int], int] = OrderedDict()  # (generation, seq) -> hash of the record

    @property
    def offset(self) -> int:
        """Return the offset of the next record to read."""
        return self._offset

    @property
    def next_delta(self) -> tuple[int, int]:
        """Return (generation, seq) of the next delta to apply."""
        return self._next_delta

    @property
    def is_at_end(self) -> bool:
        """Return whether the last read found no record."""
        return self._is_at_end

    def read(self, timeout_s: float) -> Iterator[Delta]:
        """Yield the next deltas, at most 16; wait up to `timeout_s` seconds for the first.

        A delta counts as applied once the caller asks for the one after it. If the caller raises or breaks instead, the next `read` yields
        the delta again. Deltas applied before, and deltas of an older generation (from a trainer that was replaced), are skipped.

        Raises:
            DeltaGap: a delta is missing.
            DeltaConflict: a delta has the number of another one, or another trainer than its generation.
            ModelReplaced: a generation starts a new model.
            WireError: a record is no delta, or damaged.
            OffsetTrimmed, LogError: from the log.
        """
        try:
            self._is_at_end = False
            records = self._log.read(self._topic, 0, self._offset, _MAX_RECORDS, timeout_s)
        except RecordsDamaged as error:
            raise WireError(str(error)) from error
        self._is_at_end = not records
        for record in records:
            try:
                delta = decode_delta(record.value)
            except WireError as error:
                raise WireError(f"{self._topic!r}[0] offset {record.offset}: {error}") from error
            if self._is_next(delta, content := hash(record.value)):
                yield delta
                self._next_delta, self._trainer = (delta.generation, delta.seq + 1), delta.trainer
                self._known[delta.generation, delta.seq] = content
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
            self._offset = record.offset + 1

    def _is_next(self, delta: Delta, content: int) -> bool:
        """Return whether `delta` is the next to apply, False if it must be skipped. `read` names the errors."""
        generation, seq = self._next_delta
        number = (delta.generation, delta.seq)
        if self._known.get(number, content) != content:
            raise DeltaConflict(f"delta {number} must be the one applied before, got another one, of trainer {delta.trainer!r}")
        if delta.generation < generation:
            _logger.warning("skipped delta (%d, %d) of an older generation, at (%d, %d)", *number, generation, seq)
            return False
        if delta.generation > generation:
            self._check_start(delta)
            return True
        if self._trainer not in (None, delta.trainer):
            raise DeltaConflict(f"generation {generation} must come from trainer {self._trainer!r}, got {delta.trainer!r} at {number}")
        if delta.seq > seq:
            raise DeltaGap(self._next_delta, number)
        return delta.seq == seq

    def _check_start(self, delta: Delta) -> None:
        """Check that a new generation begins with `delta` and goes on from what was applied, if anything was."""
        if delta.seq > 0:
            raise DeltaGap((delta.generation, 0), (delta.generation, delta.seq))
        if self._next_delta == (0, 0):
            return
        if delta.parent is None:
            raise ModelReplaced(delta.generation, self._next_delta)
        parent = (delta.parent.generation, delta.parent.seq)
        if parent > self._next_delta:
            raise DeltaGap(self._next_delta, parent)
