"""Bad messages are kept with their reason, and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.data.events import DeadLetter
from monolith_py.errors import RecordRefused, TopicMissing
from monolith_py.io import Log
from monolith_py.io.codec import decode_dead_letter
from monolith_py.io.log.dead_letters import DeadLetters

Make = Callable[..., Log]


def count(topic: str) -> float:
    return REGISTRY.get_sample_value("monolith_dead_letters_total", {"topic": topic, "kind": "broken"}) or 0.0


def test_a_bad_message_is_kept_with_its_place_and_reason_and_counted(make_log: Make) -> None:
    log = make_log()
    log.create_topic("dead_letters")
    before = count("actions")
    DeadLetters(log, "dead_letters", ManualClock(5_000)).put("actions", 2, 17, b"\xff", "action.kind must not be empty, got ''")
    (record,) = log.read("dead_letters", 0, 0, 10)
    letter = decode_dead_letter(record.value)
    assert (letter.topic, letter.partition, letter.offset, letter.value) == ("actions", 2, 17, b"\xff")
    assert (letter.reason, letter.time_ms, record.time_ms) == ("action.kind must not be empty, got ''", 5_000, 5_000)
    assert count("actions") == before + 1


def test_a_bad_message_that_cannot_be_kept_is_an_error_and_not_counted(make_log: Make) -> None:
    before = count("impressions")
    with pytest.raises(TopicMissing):
        DeadLetters(make_log(), "dead_letters", ManualClock(5_000)).put("impressions", 0, 0, b"x", "no reason")
    assert count("impressions") == before


def test_a_message_too_large_for_a_letter_is_cut_and_its_size_kept(make_log: Make) -> None:
    log = make_log()
    log.create_topic("dead_letters")
    DeadLetters(log, "dead_letters", ManualClock(5_000)).put("actions", 0, 3, bytes(16 << 20), "r" * 5_000)
    (record,) = log.read("dead_letters", 0, 0, 10)
    letter = decode_dead_letter(record.value)
    assert len(record.value) < 1 << 20
    assert (len(letter.value), letter.value_bytes, len(letter.reason)) == (900_000, 16 << 20, 1_000)


def test_letters_are_appended_together(make_log: Make) -> None:
    """One append for each letter held all traffic up at 400 letters/s: streams.md, K20."""
    log = make_log()
    log.create_topic("dead_letters")
    appends = []

    class CountingLog:
        def append(self, topic: str, values: list[bytes], *, time_ms: int, partition: int = 0) -> int:
            appends.append(len(values))
            return log.append(topic, values, time_ms=time_ms, partition=partition)

    letters = DeadLetters(CountingLog(), "dead_letters", ManualClock(5_000))  # type: ignore[arg-type]
    letters.put_all([DeadLetter("actions", 0, offset, b"x", "no reason") for offset in range(1_000)])
    letters.put_all([])
    assert appends == [1_000]
    assert [decode_dead_letter(record.value).offset for record in log.read("dead_letters", 0, 0, 2_000)] == list(range(1_000))


def test_a_letter_that_the_log_refuses_is_lost_alone(make_log: Make) -> None:
    log = make_log()
    log.create_topic("dead_letters")

    class StrictLog:
        def append(self, topic: str, values: list[bytes], *, time_ms: int, partition: int = 0) -> int:
            if any(len(value) > 1_000 for value in values):
                raise RecordRefused("too large")
            return log.append(topic, values, time_ms=time_ms, partition=partition)

    letters = DeadLetters(StrictLog(), "dead_letters", ManualClock(5_000))  # type: ignore[arg-type]
    letters.put_all([DeadLetter("actions", 0, offset, bytes(2_000 if offset == 1 else 1), "no reason") for offset in range(3)])
    assert [decode_dead_letter(record.value).offset for record in log.read("dead_letters", 0, 0, 10)] == [0, 2]
