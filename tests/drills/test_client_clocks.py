"""Clients with a broken clock: 8 hours ahead, in seconds, or in 1970; the examples of all others stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sound_stream import GAP_MS, SoundStream, append_event, impression, items_of
from surroundings import Deployment, Example, now_ms

from monolith_py.data.events import Action
from monolith_py.io.codec import encode_action

NUM_REQUESTS = 300
AHEAD_MS = 8 * 3600 * 1000
# Event time of a broken clock, given the right one.
CLOCKS: dict[str, Callable[[int], int]] = {
    "ahead": lambda time_ms: time_ms + AHEAD_MS,
    "seconds": lambda time_ms: time_ms // 1000,
    "1970": lambda time_ms: 2 + time_ms % 1000,
}


def append_broken(drill: Deployment, right_ms: int, number: int) -> None:
    """Append a request of each broken clock, and its click."""
    for name, clock in CLOCKS.items():
        request_id, time_ms = f"{name}-{number}", clock(right_ms)
        append_event(drill, drill.topics.impressions, request_id, impression(request_id, number, time_ms), time_ms)
        action = encode_action(Action(request_id, items_of(number)[0], "click", time_ms + 1))
        append_event(drill, drill.topics.actions, request_id, action, time_ms + 1)


def append_all(drill: Deployment, stream: SoundStream, after_each: Callable[[], None]) -> None:
    # The first records are sound.
    for number in range(NUM_REQUESTS // 20):
        stream.append(20)
        append_broken(drill, stream.now_ms, number)
        after_each()
    stream.end()


def check(drill: Deployment, stream: SoundStream) -> None:
    found = drill.examples()
    sound = {example: count for example, count in found.items() if is_sound(example)}
    assert sound == stream.expected
    # A broken clock costs its own client's events at most.
    letters = [letter.reason for letter in drill.dead_letters()]
    assert any("in milliseconds" in reason for reason in letters)
    assert not [example for example in found if example[0].startswith("seconds")]


def is_sound(example: Example) -> bool:
    return not example[0].startswith(tuple(CLOCKS))


def test_a_broken_clock_costs_no_other_client_an_example_while_the_joiner_runs(deploy: Callable[..., Deployment]) -> None:
    drill: Deployment = deploy()
    stream = SoundStream(drill, now_ms() - NUM_REQUESTS * GAP_MS - 60_000)
    joiner = drill.start("join")

    append_all(drill, stream, lambda: stream.feed(0, joiner))
    joiner.stop()
    drill.run("join", "--stop-at-end")
    check(drill, stream)
    assert not [example for example in drill.examples() if example[0].startswith("ahead")]
    drill.run("train", "--stop-at-end")
    assert drill.checkpoint().meta.examples_trained == sum(drill.examples().values())


@pytest.mark.parametrize("age_s", [3600, 100 * 24 * 3600])
def test_a_broken_clock_in_a_backlog_costs_no_other_client_an_example(deploy: Callable[..., Deployment], age_s: int) -> None:
    drill: Deployment = deploy()
    stream = SoundStream(drill, now_ms() - age_s * 1000)
    append_all(drill, stream, lambda: None)
    drill.run("join", "--stop-at-end")
    check(drill, stream)
