"""The oldest place in the log from which the joiner's state can be built again.

Intervals of steps, each with its first place and the event time at which the last of its requests is forgotten. Once the watermark has
passed that time, no record before the next interval is needed any more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from monolith_streaming.joiner.position import OpenPlace
from monolith_streaming.joiner.watermark import InputTopic

# Intervals over the time that a request is remembered: a state is built from at most 1/64 more records than needed.
_NUM_INTERVALS = 64


@dataclass
class _Interval:
    place: OpenPlace
    until_ms: int  # the last record in it is needed up to this watermark
    first_until_ms: int | None = None  # of its first record


class Lookback:
    """Follows the open requests of one partition from `place` on; those that it has already are needed up to `until_ms`."""

    def __init__(self, place: OpenPlace, until_ms: int, remembered_ms: int) -> None:
        self._intervals = deque([_Interval(place, until_ms)])
        self._length_ms = max(remembered_ms // _NUM_INTERVALS, 1)

    def note(self, input_topic: InputTopic, offset: int, until_ms: int) -> None:
        """Keep the record at `offset` within reach up to the watermark `until_ms`."""
        for interval in reversed(self._intervals):
            if offset >= interval.place[input_topic]:
                break
        interval.until_ms = max(interval.until_ms, until_ms)
        if interval.first_until_ms is None:
            interval.first_until_ms = until_ms

    def commit(self, place: OpenPlace, closed_ms: int | None) -> OpenPlace:
        """Begin an interval at `place`, after a step, if the last one is long; return the place from which to read at `closed_ms`."""
        last = self._intervals[-1]
        if last.first_until_ms is not None and last.until_ms >= last.first_until_ms + self._length_ms:
            self._intervals.append(_Interval(place, 0))
        while len(self._intervals) > 1 and closed_ms is not None and self._intervals[0].until_ms <= closed_ms:
            self._intervals.popleft()
        return self._intervals[0].place
