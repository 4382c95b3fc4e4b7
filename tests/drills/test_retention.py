"""Retention deletes what was not read yet: joiner and trainer go on at what is left, and count what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, now_ms, wait_until

from monolith_py.io.codec import decode_examples

NUM_REQUESTS = 150


def trim(drill: Deployment, topic: str) -> int:
    """Delete all records of a topic and return their number."""
    before = sum(1 for _ in drill.records(topic))
    for partition in range(drill.log.num_partitions(topic)):
        drill.log.trim(topic, partition, drill.log.end_offset(topic, partition))
    return before


def num_examples(drill: Deployment) -> int:
    return sum(len(decode_examples(record.value)) for record in drill.records(drill.topics.examples))


def test_a_trainer_whose_unread_examples_are_gone_learns_what_is_left_and_counts_the_loss(
    deploy: Callable[..., Deployment],
) -> None:
    drill = deploy(metrics_of="trainer")
    stream = SoundStream(drill, now_ms() - (3 * NUM_REQUESTS + 200) * GAP_MS)
    stream.append(NUM_REQUESTS)
    drill.run("join", "--stop-at-end")
    drill.run("train", "--stop-at-end")
    learnt = num_examples(drill)
    assert drill.checkpoint().meta.examples_trained == learnt

    stream.append(NUM_REQUESTS)
    drill.run("join", "--stop-at-end")
    offsets = {partition: place[0] for partition, place in drill.checkpoint().meta.offsets.items()}
    lost = sum(drill.log.end_offset(drill.topics.examples, partition) - offset for partition, offset in offsets.items())
    trim(drill, drill.topics.examples)
    stream.append(NUM_REQUESTS)
    stream.end()
    drill.run("join", "--stop-at-end")
    left = num_examples(drill)

    trainer = drill.start("train")
    wait_until(lambda: drill.metric("monolith_examples_trained_total") >= left, [trainer])
    assert drill.metric("monolith_records_lost_total") == lost > 0
    trainer.stop()
    assert drill.checkpoint().meta.examples_trained == learnt + left
    assert "examples lost" in trainer.said()


def test_a_joiner_whose_unread_events_are_gone_joins_what_is_left_once(deploy: Callable[..., Deployment]) -> None:
    drill = deploy(metrics_of="joiner")
    stream = SoundStream(drill, now_ms() - (4 * NUM_REQUESTS + LEAD + 200) * GAP_MS)
    joiner = drill.start("join")
    stream.feed(NUM_REQUESTS + LEAD, joiner)
    joiner.stop()
    stream.append(NUM_REQUESTS)
    first_gone = stream.num_requests - NUM_REQUESTS
    gone = {f"r{index}" for index in range(first_gone, stream.num_requests)}
    trim(drill, drill.topics.impressions)
    # Also the examples, whose last records are still in the outbox of the store.
    written = drill.examples()
    trim(drill, drill.topics.examples)
    stream.append(NUM_REQUESTS + LEAD)
    joiner = drill.start("join")
    wait_until(lambda: drill.metric("monolith_records_lost_total") >= NUM_REQUESTS, [joiner])
    joiner.stop()
    stream.end()
    drill.run("join", "--stop-at-end")
    found = written + drill.examples()
    expected = Counter({example: count for example, count in stream.expected.items() if example[0] not in gone})
    assert not found - expected
    # Requests that waited have their features in the log alone: one letter for each that is gone, beside the clicks of those never read.
    waited = {example[0] for example in expected - found}
    letters = Counter(letter.topic for letter in drill.dead_letters())
    assert 0 < len(waited) == letters[drill.topics.impressions] and waited <= {f"r{index}" for index in range(first_gone)}
    assert set(letters) == {drill.topics.actions, drill.topics.impressions}
