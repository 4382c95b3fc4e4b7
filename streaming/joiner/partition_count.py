"""Number of partitions of the joiner's topics, which may grow while it runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from monolith_py.errors import ConfigError
from monolith_py.io import Log

_logger = logging.getLogger(__name__)

# Wall-clock seconds between two looks at the number of partitions.
_INTERVAL_S = 5.0


class PartitionCount:
    """Number of partitions that all of `topics` have."""

    def __init__(self, log: Log, topics: Sequence[str], now_s: float) -> None:
        self._log, self._topics = log, topics
        self._due_s = now_s + _INTERVAL_S
        self.number = 0

    def start(self) -> None:
        """Take the present number.

        Raises:
            ConfigError: the topics differ.
        """
        counts = self._counts()
        if len(set(counts.values())) > 1:
            raise ConfigError(f"topics must have the same number of partitions, got {counts}")
        self.number = min(counts.values())

    def look(self, now_s: float) -> None:
        """Take notice, now and then, of partitions that were added, once all topics have them."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + _INTERVAL_S
        counts = self._counts()
        if len(set(counts.values())) > 1:
            _logger.warning("topics must have the same number of partitions, got %s: the partitions that one lacks are not read", counts)
        if min(counts.values()) > self.number:
            self.number = min(counts.values())
            _logger.warning("the topics have %d partitions now", self.number)

    def _counts(self) -> dict[str, int]:
        return {topic: self._log.num_partitions(topic) for topic in self._topics}
