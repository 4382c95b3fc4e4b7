"""Deletion up to the bounds, and measures of the topics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple
from typing import Protocol, runtime_checkable

from monolith_py.errors import LogDenied
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.observe import metrics
from monolith_streaming.retention.bounds import Bound

_logger = logging.getLogger(__name__)


@runtime_checkable
class HasSize(Protocol):
    """A log that knows the size of its topics."""

    def num_bytes(self, topic: str) -> int:
        """Return the bytes of a topic on disk, without replicas."""
        ...


def trim(log: Log, bounds: Sequence[Bound]) -> int:
    """Delete all that the bounds allow, and return the number of offsets deleted.

    Raises:
        LogError: the log cannot be reached, or the user has no permission to delete.
    """
    deleted = 0
    for bound in bounds:
        if bound.num_deletable > 0:
            log.trim(bound.topic, bound.partition, bound.before)
            metrics.RECORDS_TRIMMED.labels(topic=bound.topic).inc(bound.num_deletable)
            deleted += bound.num_deletable
    return deleted


def measure(log: Log, topics: Topics) -> dict[str, tuple[int, int | None]]:
    """Set the gauges of all topics and return (records, bytes) of each; bytes are None where the log does not tell."""
    sizes: dict[str, tuple[int, int | None]] = {}
    for topic in astuple(topics):
        records, _ = sizes[topic] = topic_size(log, topic)
        metrics.TOPIC_RECORDS.labels(topic=topic).set(records)
        if (num_bytes := sizes[topic][1]) is not None:
            metrics.TOPIC_BYTES.labels(topic=topic).set(num_bytes)
    return sizes


def topic_size(log: Log, topic: str) -> tuple[int, int | None]:
    """Return records and bytes of a topic; bytes are None where the log does not tell."""
    partitions = range(log.num_partitions(topic))
    records = sum(log.end_offset(topic, partition) - log.start_offset(topic, partition) for partition in partitions)
    return records, _num_bytes(log, topic)


def _num_bytes(log: Log, topic: str) -> int | None:
    if not isinstance(log, HasSize):
        return None
    try:
        return log.num_bytes(topic)
    except LogDenied as error:
        _logger.debug("size of %r is unknown: %s", topic, error)
        return None
