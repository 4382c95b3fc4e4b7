"""A joiner that reads impressions and no action of a task's kind says so in its log."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.clock import ManualClock

World = Any


@pytest.mark.parametrize("has_likes", [True, False])
def test_a_joiner_without_actions_of_a_kind_warns_once_a_minute(world: World, caplog: pytest.LogCaptureFixture, has_likes: bool) -> None:
    """Actions in a topic without the job's prefix: 22,371 negatives, and no word: newcomer.md, P13."""
    job = world.job()
    log, clock = world.log(job), ManualClock(world.now_ms + 2_000_000)
    loop = world.joiner(job, log, clock=clock)
    for number in range(1_000):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "click", number))
        if has_likes:
            world.append(job, log, world.action(f"r{number}", "like", number))
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    assert caplog.messages == []
    for _ in range(3):
        clock.advance(60.0)
        loop.step()
    line = "1000 impressions and no action of kind 'like': every label of task is_like is 0"
    assert caplog.messages == ([] if has_likes else [line])
