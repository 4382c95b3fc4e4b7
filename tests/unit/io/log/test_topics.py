"""The job's topics, and the partition of a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from monolith_py.config import LogConfig
from monolith_py.errors import ConfigError, TopicMissing
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics, create_topics, partition_of

Make = Callable[..., Log]


def test_topics_carry_the_prefix() -> None:
    topics = Topics.of(LogConfig(url="sqlite:///log", topic_prefix="shop."))
    names = (
        "impressions",
        "actions",
        "examples",
        "updates",
        "dead_letters",
        "dense_requests",
        "verdicts",
        "shadow_scores",
        "forget_requests",
    )
    assert topics == Topics(*(f"shop.{name}" for name in names))


def test_a_second_model_shares_events_and_examples_and_has_its_own_updates() -> None:
    first, second = (Topics.of(LogConfig(url="sqlite:///log", topic_prefix="shop.", model_prefix=prefix)) for prefix in ("", "wide."))
    shared = ("impressions", "actions", "examples", "forget_requests")
    assert {name for name in vars(first) if getattr(first, name) == getattr(second, name)} == set(shared)
    assert second.updates == "shop.wide.updates"


def test_topics_of_events_and_examples_have_as_many_partitions_as_set_and_the_others_one(make_log: Make) -> None:
    log, config = make_log(), LogConfig(url="sqlite:///log", partitions=3)
    create_topics(log, config)
    create_topics(log, config)
    topics = Topics.of(config)
    assert [log.num_partitions(topic) for topic in (topics.impressions, topics.actions, topics.examples)] == [3, 3, 3]
    assert [log.num_partitions(topic) for topic in (topics.updates, topics.dead_letters, topics.dense_requests)] == [1, 1, 1]


def test_another_number_of_partitions_than_the_topics_have_is_refused(make_log: Make) -> None:
    log = make_log()
    create_topics(log, LogConfig(url="sqlite:///log", partitions=3))
    with pytest.raises(ConfigError, match=r"log.partitions must be 3, as topic 'impressions' has, got 4"):
        create_topics(log, LogConfig(url="sqlite:///log", partitions=4))


def test_topics_with_different_numbers_of_partitions_are_told_together_with_the_way_on(make_log: Make) -> None:
    """One by one they sent an operator in a circle: set 4, as one topic has; set 8, as another has."""
    log, config = make_log(), LogConfig(url="sqlite:///log", partitions=8)
    for topic, count in (("impressions", 8), ("actions", 4)):
        log.create_topic(topic, count)
    rule = r"topics must have the same number of partitions, got \{'impressions': 8, 'actions': 4\}: give 8 to 'actions'"
    with pytest.raises(ConfigError, match=rule):
        create_topics(log, config)
    with pytest.raises(TopicMissing):
        log.num_partitions("examples")


def test_a_topic_that_must_have_one_partition_and_has_more_is_refused(make_log: Make) -> None:
    log = make_log()
    log.create_topic("updates", 3)
    with pytest.raises(ConfigError, match=r"topic 'updates' must have 1 partition, got 3: make it again"):
        create_topics(log, LogConfig(url="sqlite:///log"))


def test_kafka_clients_choose_the_same_partition_for_a_request_id_as_the_key() -> None:
    murmur2 = pytest.importorskip("kafka.partitioner.default").murmur2
    for number in range(2_000):
        request_id = f"{number * 7919:x}" + "\u00e4" * (number % 3)
        for num_partitions in (1, 3, 8):
            assert partition_of(request_id, num_partitions) == (murmur2(request_id.encode()) & 0x7FFFFFFF) % num_partitions


def test_the_partition_of_a_request_never_changes() -> None:
    assert [partition_of(f"request-{number}", 16) for number in range(12)] == GOLDEN


def test_requests_spread_over_the_partitions() -> None:
    counts = [0] * 8
    for number in range(8_000):
        counts[partition_of(f"request-{number}", 8)] += 1
    assert min(counts) > 850 and max(counts) < 1_150


GOLDEN = [4, 15, 15, 8, 3, 3, 7, 1, 0, 9, 15, 8]
