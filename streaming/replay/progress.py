"""Progress of a replay in the log of its workers."""

from __future__ import annotations

import logging

from monolith_py.clock import Clock
from monolith_streaming.replay.source import Count, Shard

_logger = logging.getLogger(__name__)

_INTERVAL_S = 30.0


class Progress:
    """Progress of one partition: a line every 30 s and one at the end."""

    def __init__(self, clock: Clock, partition: int) -> None:
        self._clock, self._partition = clock, partition
        self._began_s = clock.monotonic_s()
        self._due_s = self._began_s + _INTERVAL_S
        self._num_requests = 0

    def counting(self, count: Count) -> Count:
        """Return `count`, which tells this object, too."""

        def counted(name: str, increment: int) -> None:
            self._num_requests += increment if name == "requests" else 0
            count(name, increment)

        return counted

    def report(self, shard: Shard) -> None:
        """Log a line if it is due."""
        if self._clock.monotonic_s() >= self._due_s:
            self._due_s = self._clock.monotonic_s() + _INTERVAL_S
            _logger.info("partition %d: shard %d of %d, %s", self._partition, shard.number + 1, shard.total, self._rate())

    def end(self) -> None:
        """Log the end."""
        _logger.info("partition %d: all examples are written, %s", self._partition, self._rate())

    def _rate(self) -> str:
        elapsed_s = max(self._clock.monotonic_s() - self._began_s, 1e-9)
        return f"{self._num_requests} requests, {self._num_requests / elapsed_s:.0f} a second"
