"""Bad messages are kept with their reason, and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.errors import TopicMissing
from monolith_py.io import Log
from monolith_py.io.codec import decode_dead_letter
from monolith_py.io.log.dead_letters import DeadLetters

Make = Callable[..., Log]


def count(topic: str) -> float:
    return REGISTRY.get_sample_value("monolith_dead_letters_total", {"topic": topic}) or 0.0


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
