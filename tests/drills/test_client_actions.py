"""Apps that send broken actions through a genuine Kafka: null values, garbage, one request id for all, records of many megabytes."""

from __future__ import annotations

from collections.abc import Callable

import kafka
import pytest
from kafka.errors import KafkaError
from sound_stream import GAP_MS, SoundStream
from surroundings import WAIT_S, Deployment, now_ms

from monolith_demo.driver.kafka_broker import KafkaBroker
from monolith_py.data.events import Action
from monolith_py.io.codec import encode_action
from monolith_py.io.log.topics import partition_of

NUM_REQUESTS = 300
NUM_NULLS, NUM_GARBAGE, NUM_UNDEFINED = 20, 20, 1000
# As a record the first is just below what the topics take, the second above it.
MOST_BYTES, TOO_MANY_BYTES = (16 << 20) - 200, 18 << 20


@pytest.mark.needs_kafka
def test_broken_actions_become_dead_letters_and_every_sound_one_is_learnt_once(
    deploy: Callable[..., Deployment], broker: KafkaBroker
) -> None:
    drill = deploy(log={"url": broker.url, "topic_prefix": "actions."})
    stream = SoundStream(drill, now_ms() - (NUM_REQUESTS + 100) * GAP_MS)
    stream.append(NUM_REQUESTS // 2)
    send_broken(drill, broker)
    stream.append(NUM_REQUESTS // 2)
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
    letters = drill.dead_letters()
    assert len(letters) == NUM_NULLS + NUM_GARBAGE + NUM_UNDEFINED + 1
    assert {letter.topic for letter in letters} == {drill.topics.actions}
    assert [letter.value_bytes for letter in letters if letter.value_bytes] == [MOST_BYTES]
    drill.run("train", "--stop-at-end")
    assert drill.checkpoint().meta.examples_trained == sum(stream.expected.values())


def send_broken(drill: Deployment, broker: KafkaBroker) -> None:
    """Send the actions of a broken app with its own client."""
    topic = drill.topics.actions
    app = kafka.KafkaProducer(bootstrap_servers=broker.url.removeprefix("kafka://"), max_request_size=32 << 20)
    try:
        for number in range(NUM_NULLS):
            app.send(topic, key=b"deleted", value=None, partition=number % 2)
        for number in range(NUM_GARBAGE):
            app.send(topic, value=b"\xff" * number, partition=number % 2)
        for number in range(NUM_UNDEFINED):
            action = encode_action(Action("undefined", number, "click", now_ms() - 60_000))
            app.send(topic, value=action, partition=partition_of("undefined", 2))
        app.send(topic, value=b"\xff" * MOST_BYTES, partition=0).get(WAIT_S)
        with pytest.raises(KafkaError):
            app.send(topic, value=b"\xff" * TOO_MANY_BYTES, partition=0).get(WAIT_S)
    finally:
        app.close()
