"""The topics of a job, and the partition of a request."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields

from monolith_py import _core
from monolith_py.config import LogConfig
from monolith_py.errors import ConfigError, TopicMissing
from monolith_py.io.log.log import Log


@dataclass(frozen=True)
class Topics:
    """Names of a job's topics, with the prefix."""

    impressions: str
    actions: str
    examples: str
    updates: str
    dead_letters: str
    dense_requests: str
    verdicts: str
    shadow_scores: str
    forget_requests: str

    @staticmethod
    def of(config: LogConfig) -> Topics:
        """Return the topics of the job with the log `config`.

        >>> Topics.of(LogConfig(url="sqlite:///log", topic_prefix="shop.")).updates
        'shop.updates'
        >>> Topics.of(LogConfig(url="sqlite:///log", model_prefix="wide.")).updates
        'wide.updates'
        """
        events = ("impressions", "actions", "examples", "forget_requests")
        prefixes = ("" if field.name in events else config.model_prefix for field in fields(Topics))
        return Topics(*(f"{config.topic_prefix}{prefix}{field.name}" for prefix, field in zip(prefixes, fields(Topics), strict=True)))


def create_topics(log: Log, config: LogConfig) -> None:
    """Create the missing topics of a job: `config.partitions` partitions for events and examples, one for the others.

    Raises:
        ConfigError: topics exist with another number of partitions.
    """
    topics = Topics.of(config)
    shared = (topics.impressions, topics.actions, topics.examples)
    existing = _partition_counts(log, astuple(topics))
    counts = {topic: existing[topic] for topic in shared if topic in existing}
    most = max(counts.values(), default=config.partitions)
    if lacking := [topic for topic, count in counts.items() if count < most]:
        rule = f"topics must have the same number of partitions, got {counts}"
        raise ConfigError(f"{rule}: give {most} to {', '.join(map(repr, lacking))}, and set log.partitions to {most}")
    if most != config.partitions:
        raise ConfigError(f"log.partitions must be {most}, as topic {next(iter(counts))!r} has, got {config.partitions}")
    for topic, count in existing.items():
        if topic not in shared and count != 1:
            raise ConfigError(f"topic {topic!r} must have 1 partition, got {count}: make it again, or use another log.topic_prefix")
    for topic in astuple(topics):
        log.create_topic(topic, config.partitions if topic in shared else 1)


def _partition_counts(log: Log, topics: Sequence[str]) -> dict[str, int]:
    """Return the number of partitions of the topics that exist."""
    counts: dict[str, int] = {}
    for topic in topics:
        with suppress(TopicMissing):
            counts[topic] = log.num_partitions(topic)
    return counts


def partition_of(request_id: str, num_partitions: int) -> int:
    """Return the partition of a request: the same for its impression, its actions and its examples.

    Kafka's own clients choose the same partition for a record with the request id as its key (murmur2, then modulo), so an app can append
    actions with any Kafka client.

    >>> partition_of("r1", 8)
    4
    """
    return (_core.murmur2(request_id.encode()) & 0x7FFFFFFF) % num_partitions
