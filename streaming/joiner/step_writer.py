"""Appends the examples of a partition's steps to the log: each step whole, once, and by one joiner at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monolith_py import _core
from monolith_py.data.steps import JoinerStep
from monolith_py.errors import Fenced, LogError, RecordRefused
from monolith_py.io import Log, Writer
from monolith_py.io.codec import step_to_metadata
from monolith_py.io.retrying import RetryPolicy
from monolith_streaming.joiner.core_partition import parts_of_step
from monolith_streaming.joiner.emit import MAX_RECORD_BYTES, Encoding, Part
from monolith_streaming.joiner.position import Position, progress_to_metadata
from monolith_streaming.joiner.tail import last_step

_logger = logging.getLogger(__name__)

# Name of the joiner's writer of a partition of `examples`, in any job: no two joiners write to one partition.
WRITER = "joiner"
# Called with an example that the log will never take, as a record, and the reason.
PutAside = Callable[[bytes, str], None]


@dataclass
class StepWriter:
    """Writer of the steps of partition `number` of `topic`."""

    log: Log
    topic: str
    number: int
    writer: Writer
    encoding: Encoding
    put_aside: PutAside
    retry: RetryPolicy
    max_bytes: int = MAX_RECORD_BYTES

    def write(self, step: _core.JoinedStep, position: Position) -> None:
        """Append the examples as the next step of `position`, and move its step and its end of the examples past it.

        The step has no part if the log takes none of the examples.

        Raises:
            Fenced: another joiner has taken over.
            LogError: the log was away for too long.
        """
        ranges = [(0, len(step))] if len(step) else []
        max_bytes = self.max_bytes
        while ranges:
            parts = self._encode(step, ranges, position, max_bytes)
            try:
                position.examples_end = self._append([part.value for part in parts], step.newest_ms(), position)
            except RecordRefused as error:
                largest = max(parts, key=lambda part: len(part.value))
                if largest.stop - largest.start > 1:
                    max_bytes = len(largest.value) // 2
                else:
                    self.put_aside(largest.value, str(error))
                    ranges = _without(ranges, largest.start)
                continue
            position.step += 1
            return

    def close(self) -> None:
        """Close the writer."""
        self.writer.close()

    def _encode(self, step: _core.JoinedStep, ranges: Sequence[tuple[int, int]], position: Position, max_bytes: int) -> list[Part]:
        progress = progress_to_metadata(position.progress)

        def metadata(index: int, is_last: bool) -> dict[str, str]:
            return {**step_to_metadata(JoinerStep(position.series, position.step + 1, index, is_last, position.epoch)), **progress}

        return parts_of_step(step, ranges, self.encoding, metadata, max_bytes)

    def _append(self, values: Sequence[bytes], newest_ms: int, position: Position) -> int:
        """Append the records in one attempt; after a failure find out whether the log has them before each further one."""
        try:
            return self.writer.append(values, time_ms=newest_ms)
        except RecordRefused:
            raise
        except LogError as error:
            _logger.warning("append failed, comparing the log with the step: %s", error)
        return self.retry.run(lambda: self._append_if_missing(values, newest_ms, position))

    def _append_if_missing(self, values: Sequence[bytes], newest_ms: int, position: Position) -> int:
        self.writer.settle()
        found = last_step(self.log, self.topic, self.number, position.examples_end)
        if found is not None:
            ours = JoinerStep(position.series, position.step + 1, found.step.part, found.step.is_last, position.epoch)
            if found.step == ours:
                return self.log.end_offset(self.topic, self.number)
            if found.step.number > position.step or found.step.series != position.series:
                raise Fenced(f"{self.topic!r}[{self.number}] must end with step {position.step}, got {found.step}: another joiner runs")
        return self.writer.append(values, time_ms=newest_ms)


def _without(ranges: Sequence[tuple[int, int]], index: int) -> list[tuple[int, int]]:
    """Return `ranges` without one index.

    >>> _without([(0, 5), (5, 9)], 3)
    [(0, 3), (4, 5), (5, 9)]
    """
    cut = [piece for start, stop in ranges for piece in ([(start, index), (index + 1, stop)] if start <= index < stop else [(start, stop)])]
    return [(start, stop) for start, stop in cut if start < stop]
