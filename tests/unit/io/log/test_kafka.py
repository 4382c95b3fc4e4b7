"""Failures of the Kafka log: a broker that dies, transactions of others, errors of the client."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import kafka.errors
import pytest
from kafka import KafkaProducer

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.errors import LogError
from monolith_py.io import Log
from monolith_py.io.log.kafka import KafkaLog
from monolith_py.io.log.kafka_errors import mapped_errors

Make = Callable[..., Log]
NUMBERS = itertools.count()
HANG_S = 240.0  # against a hang alone


@pytest.fixture
def topic(kafka_url: str, make_log: Make) -> str:
    name = f"kafka-log.{next(NUMBERS)}"
    make_log(kafka_url).create_topic(name)
    return name


@pytest.fixture
def own_broker(kafka_url: str, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker that the test may kill; `kafka_url` skips the test without Kafka."""
    with KafkaBroker(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def patient_log(own_broker: KafkaBroker) -> Iterator[KafkaLog]:
    """A log that waits for its broker: on a machine under load a restart takes longer than the 30 s after which an append fails."""
    with closing(KafkaLog([own_broker.url.removeprefix("kafka://")], timeout_s=HANG_S)) as log:
        yield log


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_kill_9_of_the_broker_loses_doubles_and_reorders_nothing(
    own_broker: KafkaBroker, patient_log: KafkaLog, make_log: Make, work_factor: int
) -> None:
    writer, reader = patient_log, make_log(own_broker.url)
    writer.create_topic("actions")
    acknowledged: list[int] = []
    stop = threading.Event()

    def append() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            acknowledged.append(writer.append("actions", [b"%d" % number], time_ms=number))

    thread = threading.Thread(target=append)
    thread.start()
    found: list[bytes] = []
    for enough in (200 * work_factor, 400 * work_factor):
        while len(found) < enough:
            found += [record.value for record in reader.read("actions", 0, len(found), 100, timeout_s=HANG_S)]
        own_broker.kill()
        own_broker.start()
    while len(found) < 600 * work_factor:
        found += [record.value for record in reader.read("actions", 0, len(found), 100, timeout_s=HANG_S)]
    stop.set()
    thread.join()
    while records := reader.read("actions", 0, len(found), 1_000):
        found += [record.value for record in records]
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert found == [b"%d" % number for number in range(len(acknowledged))]


@pytest.mark.needs_kafka
def test_a_broker_that_is_not_there_is_an_error_naming_it() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    with pytest.raises(LogError, match=rf"kafka://127\.0\.0\.1:{port}: "):
        KafkaLog([f"127.0.0.1:{port}"], timeout_s=0.2)


@pytest.mark.needs_kafka
def test_only_committed_records_of_transactions_are_read(kafka_url: str, topic: str, make_log: Make) -> None:
    log = make_log(kafka_url)
    log.append(topic, [b"before"], time_ms=1)
    with closing(KafkaProducer(bootstrap_servers=kafka_url.removeprefix("kafka://"), transactional_id=topic)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"aborted", partition=0)
        producer.flush()
        assert log.end_offset(topic) == 1
        assert [record.value for record in log.read(topic, 0, 0, 10)] == [b"before"]
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send(topic, b"committed", partition=0)
        producer.commit_transaction()
    records = log.read(topic, 0, 1, 10, timeout_s=HANG_S)
    assert [record.value for record in records] == [b"committed"]
    # After it is the commit's own record: the end is larger, and a read there ends at once.
    end = log.end_offset(topic)
    assert end > records[-1].offset + 1
    assert log.read(topic, 0, records[-1].offset + 1, 10) == []


@pytest.mark.needs_kafka
def test_a_record_beyond_the_limit_is_refused_before_any_is_sent(kafka_url: str, topic: str, make_log: Make) -> None:
    log = make_log(kafka_url)
    with pytest.raises(LogError, match=r"a record must have at most 16 MiB, got 16777216 bytes"):
        log.append(topic, [b"small", bytes(16 << 20)], time_ms=1)
    assert log.end_offset(topic) == 0
    assert log.append(topic, [bytes(15 << 20)], time_ms=1) == 1


@pytest.mark.needs_kafka
def test_old_and_future_event_times_are_kept(kafka_url: str, topic: str, make_log: Make) -> None:
    log = make_log(kafka_url)
    times_ms = [1, 1_649_000_000_000, 4_000_000_000_000]
    for time_ms in times_ms:
        log.append(topic, [b"x"], time_ms=time_ms)
    assert [log.read(topic, 0, offset, 1)[0].time_ms for offset in range(3)] == times_ms
    assert [log.offset_at(topic, 0, time_ms) for time_ms in (0, 2, 2_000_000_000_000, 4_000_000_000_001)] == [0, 1, 2, 3]


@pytest.mark.needs_kafka
def test_a_record_of_another_producer_has_its_timestamp_as_event_time(kafka_url: str, topic: str, make_log: Make) -> None:
    log = make_log(kafka_url)
    log.append(topic, [b"ours"], time_ms=2_000)
    with closing(KafkaProducer(bootstrap_servers=kafka_url.removeprefix("kafka://"))) as producer:
        producer.send(topic, b"theirs", partition=0, timestamp_ms=1_649_000_000_000, headers=[("event_time_ms", b"odd")])
        producer.flush()
    assert [log.read(topic, 0, offset, 1)[0].time_ms for offset in range(2)] == [2_000, 1_649_000_000_000]
    assert [log.offset_at(topic, 0, time_ms) for time_ms in (1_000, 2_001)] == [0, 1]


def test_every_error_of_the_client_is_mapped() -> None:
    errors = {one for one in vars(kafka.errors).values() if isinstance(one, type) and issubclass(one, Exception)}
    assert len(errors) > 100
    unmapped = set()
    for error in [*errors, ConnectionResetError, TimeoutError]:
        try:
            with mapped_errors("kafka://x"):
                raise error.__new__(error)
        except LogError:
            pass
        except Exception as other:
            unmapped.add(type(other).__name__)
    assert unmapped == set()
