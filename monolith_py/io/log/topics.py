"""The topics of a job, and the partition of a request."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from monolith_py import _core
from monolith_py.config import LogConfig
from monolith_py.errors import ConfigError
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

    @staticmethod
    def of(config: LogConfig) -> Topics:
        """Return the topics of the job with the log `config`.

        >>> Topics.of(LogConfig(url="sqlite:///log", topic_prefix="shop.")).updates
        'shop.updates'
        """
        prefix = config.topic_prefix
        return Topics(*(f"{prefix}{field.name}" for field in fields(Topics)))


def create_topics(log: Log, config: LogConfig) -> None:
    """Create the missing topics of a job: `config.partitions` partitions for events and examples, one for the others.

    Raises:
        ConfigError: a topic exists with another number of partitions.
    """
    topics = Topics.of(config)
    partitions = dict.fromkeys((topics.impressions, topics.actions, topics.examples), config.partitions)
    for topic, expected in {**dict.fromkeys(astuple(topics), 1), **partitions}.items():
        log.create_topic(topic, expected)
        got = log.num_partitions(topic)
        if got != expected:
            field = "log.partitions" if topic in partitions else "partitions of the topic"
            raise ConfigError(f"{field} must be {got}, as topic {topic!r} has, got {expected}")


def partition_of(request_id: str, num_partitions: int) -> int:
    """Return the partition of a request: the same for its impression, its actions and its examples.

    Kafka's own clients choose the same partition for a record with the request id as its key (murmur2, then modulo), so an app can append
    actions with any Kafka client.

    >>> partition_of("r1", 8)
    4
    """
    return (_core.murmur2(request_id.encode()) & 0x7FFFFFFF) % num_partitions
