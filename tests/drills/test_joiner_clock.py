"""The wall clock of the joiner's machine steps back or ahead: the joiner stops by name or goes on, and harms no example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sound_stream import GAP_MS, LEAD, SoundStream
from surroundings import Deployment, WallClock, now_ms

NUM_REQUESTS = 300
STEP_S = 8 * 3600


@pytest.fixture
def drill(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy()


@pytest.fixture
def stream(drill: Deployment) -> SoundStream:
    return SoundStream(drill, now_ms() - (NUM_REQUESTS + LEAD) * GAP_MS)


def check_rest(drill: Deployment, stream: SoundStream) -> None:
    stream.end()
    drill.run("join", "--stop-at-end")
    assert drill.examples() == stream.expected
    assert drill.dead_letters() == []


def test_a_joiner_whose_clock_steps_back_stops_by_name_and_goes_on_exactly(
    drill: Deployment, stream: SoundStream, wall_clock: WallClock
) -> None:
    joiner = drill.start("join", **wall_clock.environment)
    stream.feed(NUM_REQUESTS // 3 + LEAD, joiner)
    wall_clock.shift(-STEP_S)
    stream.append(NUM_REQUESTS // 3)
    joiner.must_refuse("ClockStepped")
    drill.start("join", **wall_clock.environment).must_refuse("ClockStepped")
    wall_clock.shift(0)
    joiner = drill.start("join", **wall_clock.environment)
    stream.feed(NUM_REQUESTS // 3, joiner)
    joiner.stop()
    check_rest(drill, stream)


def test_a_joiner_whose_clock_was_ahead_for_a_while_loses_nothing(drill: Deployment, stream: SoundStream, wall_clock: WallClock) -> None:
    joiner = drill.start("join", **wall_clock.environment)
    stream.feed(NUM_REQUESTS // 3 + LEAD, joiner)
    wall_clock.shift(STEP_S)
    stream.feed(NUM_REQUESTS // 3, joiner)
    joiner.stop()
    wall_clock.shift(0)
    # The right clock is behind the one of the last run, and ahead of every event.
    joiner = drill.start("join", **wall_clock.environment)
    stream.feed(NUM_REQUESTS // 3, joiner)
    joiner.stop()
    check_rest(drill, stream)
