"""A genuine Kafka broker is killed, or stands still, under a running joiner and trainer: every example comes once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from cuttable_proxy import ProxiedBroker
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import WAIT_S, Deployment, now_ms, wait_until

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.errors import LogError
from monolith_py.io.log.kafka import KafkaLog

NUM_REQUESTS = 150


def check(drill: Deployment, stream: SoundStream) -> None:
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
    assert drill.dead_letters() == []
    drill.run("train", "--stop-at-end")
    assert drill.checkpoint().meta.examples_trained == sum(stream.expected.values())


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_a_broker_that_is_killed_costs_no_example(deploy: Callable[..., Deployment], broker: KafkaBroker) -> None:
    drill = deploy(log={"url": broker.url, "topic_prefix": "killed."})
    stream = SoundStream(drill, now_ms() - (2 * NUM_REQUESTS + LEAD + 200) * GAP_MS)
    children = [drill.start("join"), drill.start("train")]
    stream.feed(NUM_REQUESTS + LEAD, *children)
    stream.append(NUM_REQUESTS)
    broker.kill()  # in the middle of these
    broker.start()
    stream.feed(0, *children)
    for child in children:
        child.stop()
    check(drill, stream)


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_connections_that_are_cut_cost_no_example(deploy: Callable[..., Deployment], broker: ProxiedBroker) -> None:
    drill = deploy(log={"url": broker.url, "topic_prefix": "cut."})
    stream = SoundStream(drill, now_ms() - (6 * NUM_REQUESTS + LEAD + 200) * GAP_MS)
    joiner, before = drill.start("join"), broker.proxy.num_cut
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    for _ in range(5):
        emitted = stream.num_emitted()
        stream.append(NUM_REQUESTS)
        wait_until(lambda least=emitted: stream.num_emitted() > least, [joiner])
        broker.proxy.cut()  # in the middle of these
    stream.feed(0, joiner)
    joiner.stop()
    check(drill, stream)
    assert broker.proxy.num_cut >= before + 5


@pytest.mark.needs_kafka
@pytest.mark.slow
def test_appends_go_on_after_one_that_expired_while_the_broker_stood_still(broker: KafkaBroker) -> None:
    """Without it no impression and no update leaves its process until a restart."""
    with closing(KafkaLog([broker.url.removeprefix("kafka://")], timeout_s=6.0)) as log:
        log.create_topic("expired")
        log.append("expired", [b"before"], time_ms=1)
        broker.pause()
        try:
            with pytest.raises(LogError):
                log.append("expired", [b"while"], time_ms=1)
        finally:
            broker.resume()
        wait_until(lambda: appends(log, b"after"), wait_s=60.0)
        found = [record.value for record in log.read("expired", 0, 0, 100, timeout_s=WAIT_S)]
    assert found[0] == b"before" and b"after" in found


def appends(log: KafkaLog, value: bytes) -> bool:
    try:
        log.append("expired", [value], time_ms=1)
    except LogError:
        return False
    return True


@pytest.mark.needs_kafka
@pytest.mark.long_drill
def test_what_was_sent_to_a_broker_that_stood_still_comes_once(deploy: Callable[..., Deployment], broker: KafkaBroker) -> None:
    """The joiner gives up an append whose records arrive after all."""
    drill = deploy(log={"url": broker.url, "topic_prefix": "still."})
    stream = SoundStream(drill, now_ms() - (6 * NUM_REQUESTS + LEAD + 200) * GAP_MS)
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    stream.append(5 * NUM_REQUESTS)
    wait_until(lambda: stream.num_emitted() > 2 * NUM_REQUESTS, [joiner])
    broker.pause()
    try:
        wait_until(lambda: "append failed" in joiner.said() or "next attempt" in joiner.said(), [joiner])
    finally:
        broker.resume()
    stream.feed(0, joiner)
    joiner.stop()
    check(drill, stream)
