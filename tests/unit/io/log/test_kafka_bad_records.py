"""Records that Kafka or its client cannot handle hold up nothing else: nulls, refusals, damaged and compressed batches."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, UnsupportedCodecError

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.errors import LogError, RecordRefused, RecordsDamaged
from monolith_py.io import Log
from monolith_py.io.log.kafka_reader import DamagedBatch, PartitionReader

Make = Callable[..., Log]
NUMBERS = itertools.count()
LATER_MS = 9_000_000_000_000


@pytest.fixture
def topic(kafka_url: str, make_log: Make) -> str:
    name = f"kafka-bad.{next(NUMBERS)}"
    make_log(kafka_url).create_topic(name)
    return name


def servers(url: str) -> str:
    return url.removeprefix("kafka://")


def create_with(url: str, topic: str, **settings: str) -> None:
    """Create a topic by the hand of an operator."""
    with closing(KafkaAdminClient(bootstrap_servers=servers(url))) as admin:
        configs = {name.replace("_", "."): value for name, value in settings.items()}
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1, "configs": configs}}, wait_for_metadata=True)


@pytest.mark.needs_kafka
def test_a_null_value_is_an_empty_record(kafka_url: str, topic: str, make_log: Make) -> None:
    with closing(KafkaProducer(bootstrap_servers=servers(kafka_url))) as producer:
        producer.send(topic, value=None, key=b"r1", partition=0)
        producer.send(topic, value=b"next", headers=[("event_time_ms", b"\xff" * 8)], timestamp_ms=7, partition=0)
        producer.flush()
    null, following = make_log(kafka_url).read(topic, 0, 0, 10, timeout_s=10.0)
    assert null.value == b""
    assert (following.value, following.time_ms) == (b"next", 7)


@pytest.mark.needs_kafka
@pytest.mark.parametrize(
    ("settings", "value", "time_ms"),
    [
        ({"max_message_bytes": "100000"}, bytes(200_000), 1),
        ({"message_timestamp_after_max_ms": "3600000"}, b"ahead", LATER_MS),
        ({"cleanup_policy": "compact"}, b"without a key", 1),
    ],
    ids=["too large", "too far ahead", "compacted"],
)
def test_a_record_that_the_broker_refuses_fails_alone(
    kafka_url: str, topic: str, make_log: Make, settings: dict[str, str], value: bytes, time_ms: int
) -> None:
    log, strict = make_log(kafka_url), f"{topic}.strict"
    create_with(kafka_url, strict, **settings)
    log.append(topic, [b"before"], time_ms=1)
    with pytest.raises(RecordRefused, match=strict):
        log.append(strict, [value], time_ms=time_ms)
    assert log.append(topic, [b"after"], time_ms=1) == 2


@pytest.mark.needs_kafka
def test_settings_of_a_topic_that_refuse_records_are_logged_at_its_creation(
    kafka_url: str, topic: str, make_log: Make, caplog: pytest.LogCaptureFixture
) -> None:
    log, strict = make_log(kafka_url), f"{topic}.strict"
    create_with(kafka_url, strict, cleanup_policy="compact", max_message_bytes="1048588")
    caplog.set_level(logging.WARNING)
    log.create_topic(topic)
    assert caplog.messages == []
    log.create_topic(strict)
    assert any("cleanup.policy must be delete, got compact" in line for line in caplog.messages)
    assert any("max.message.bytes should be 16777216, got 1048588" in line for line in caplog.messages)


@pytest.mark.needs_kafka
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_of_kafka_is_read(kafka_url: str, topic: str, make_log: Make, codec: str) -> None:
    values = [bytes([number % 250]) * 400_000 for number in range(10)]
    with closing(
        KafkaProducer(bootstrap_servers=servers(kafka_url), compression_type=codec, linger_ms=200, batch_size=8 << 20)
    ) as producer:
        for value in values:
            producer.send(topic, value, partition=0)
        producer.flush()
    log, found = make_log(kafka_url), []
    while len(found) < len(values):
        found += [record.value for record in log.read(topic, 0, len(found), 100, timeout_s=10.0)]
    assert found == values


@pytest.fixture
def own_broker(kafka_url: str, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker whose files the test may damage; `kafka_url` skips the test without Kafka."""
    with KafkaBroker(tmp_path / "broker") as broker:
        yield broker


@pytest.mark.needs_kafka
def test_a_damaged_batch_is_named_and_the_records_around_it_are_read(own_broker: KafkaBroker, make_log: Make, tmp_path: Path) -> None:
    log = make_log(own_broker.url)
    log.create_topic("actions")
    for values in ([b"first"], [b"damaged-3"], [b"last"]):  # the producer may spread the records of an append over batches
        log.append("actions", values, time_ms=1)
    (segment,) = (tmp_path / "broker").rglob("actions-0/*.log")
    content = segment.read_bytes()
    at = content.index(b"damaged-3")
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(b"DAMAGED-3")
    reader = make_log(own_broker.url)
    assert [record.value for record in reader.read("actions", 0, 0, 1, timeout_s=10.0)] == [b"first"]
    with pytest.raises(RecordsDamaged, match="records 1 to 1 cannot be read") as caught:
        reader.read("actions", 0, 1, 10, timeout_s=10.0)
    assert caught.value.next_offset == 2
    assert [record.value for record in reader.read("actions", 0, 2, 10, timeout_s=10.0)] == [b"last"]


class OwnConsumer:
    """A consumer whose first poll fails, and whose later polls never return, as those of kafka-python 3.0.12 may."""

    opened: list[OwnConsumer]
    error: Exception

    def __init__(self, **settings: Any) -> None:
        self.opened.append(self)
        self.has_failed = self.is_closed = False

    def assign(self, names: Any) -> None:
        pass

    def seek(self, name: TopicPartition, offset: int) -> None:
        pass

    def position(self, name: TopicPartition, timeout_ms: int) -> int:
        return 0

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, Any]:
        assert not self.has_failed, "this poll never returns"
        if len(self.opened) == 1:
            self.has_failed = True
            raise self.error
        return {}

    def close(self, autocommit: bool, timeout_ms: int = 0) -> None:
        self.is_closed = True


@pytest.mark.parametrize("error", [KafkaError("x"), UnsupportedCodecError("snappy"), RuntimeError("x"), ConnectionResetError("x")])
def test_a_consumer_whose_poll_raised_is_closed_and_never_polled_again(error: Exception) -> None:
    OwnConsumer.opened, OwnConsumer.error = [], error
    reader = PartitionReader(TopicPartition("t", 0), {}, OwnConsumer)
    expected = type(error) if type(error) in (KafkaError, ConnectionResetError) else DamagedBatch
    with pytest.raises(expected):
        reader.poll(0, 1, 0.0)
    assert reader.poll(0, 1, 0.0) == []
    assert [consumer.is_closed for consumer in OwnConsumer.opened] == [True, False]


def test_a_refusal_is_an_error_of_the_log() -> None:
    assert issubclass(RecordRefused, LogError) and issubclass(RecordsDamaged, LogError)
