"""One clock that runs ahead, or an app that sends no valid record, changes nothing for the others."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.events import EventTimeRule
from monolith_py.errors import ClockStepped
from monolith_py.io import MemoryKv
from monolith_streaming.joiner.loop import JoinerLoop

World = Any
HOURS_S = 3_600.0


def requests(world: World, first: int, num: int, at_s: float) -> list[Any]:
    """Return impressions and the click on each, one request a second from `at_s` on."""
    events = []
    for number in range(first, first + num):
        second = at_s + number - first
        events += [world.impression(f"r{number}", second), world.action(f"r{number}", "click", second + 0.5)]
    return events


def test_a_request_and_its_click_8_hours_ahead_leave_the_others_alone(world: World) -> None:
    job = world.job(terminal_actions=["click"])
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop = world.joiner(job, log, clock=clock)
    world.append(job, log, world.impression("ahead", 8 * HOURS_S), world.action("ahead", "click", 8 * HOURS_S))
    for number in range(120):
        world.append(job, log, *requests(world, number, 1, number))
        clock.advance(1.0)
        loop.step()
    loop.close_all()
    clicked = [request_id for request_id, _, _, labels in world.labels(job, log) if labels[0]]
    assert sorted(clicked) == sorted(f"r{number}" for number in range(120))
    reasons = [reason for _, _, reason in world.dead_letters(job, log)]
    assert len(reasons) == 2 and all("time_ms must be at most 300000 ms ahead of the wall clock" in reason for reason in reasons)


def test_records_ahead_of_their_neighbours_in_a_backlog_close_no_window(world: World) -> None:
    """The wall clock of a joiner that catches up is later than they are."""
    job = world.job(max_records=200, agreeing_records=5)
    log = world.log(job)
    loop = world.joiner(job, log, clock=ManualClock(world.now_ms + 20 * 86_400_000))
    for number in range(1_000):
        if number in (100, 555):
            world.append(job, log, world.impression(f"ahead{number}", 8 * HOURS_S), world.action(f"ahead{number}", "click", 8 * HOURS_S))
        world.append(job, log, *requests(world, number, 1, number))
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    loop.close_all()
    labels = {request_id: labels for request_id, _, kind, labels in world.labels(job, log) if kind == "LABELLED"}
    assert [number for number in range(1_000) if labels.get(f"r{number}") != (1, 0)] == []
    assert world.dead_letters(job, log) == []


@pytest.mark.parametrize("value", [b"\xff", None], ids=["malformed", "ahead of the clock"])
def test_an_app_that_sends_only_invalid_actions_does_not_stop_event_time(world: World, value: bytes | None) -> None:
    job = world.job(idle_timeout_s=5)
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop = world.joiner(job, log, clock=clock)
    for second in range(200):
        world.append(job, log, world.impression(f"r{second}", second))
        if value is None:
            world.append(job, log, world.action("x", "click", second + 8 * HOURS_S))
        else:
            log.append("actions", [value], time_ms=1)
        clock.advance(1.0)
        loop.step()
    assert len(world.labels(job, log)) > 80


def test_a_time_in_seconds_is_put_aside(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("seconds", time_ms=world.now_ms // 1000), world.impression("r"))
    world.join(job, log)
    assert [row[0] for row in world.labels(job, log)] == ["r"]
    ((_, _, reason),) = world.dead_letters(job, log)
    assert reason == "impression.time_ms must be in milliseconds, got 1700000000: a time of today in seconds"


def test_a_wall_clock_that_steps_back_stops_the_joiner_and_not_the_data(world: World) -> None:
    job = world.job()
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop = world.joiner(job, log, clock=clock)
    world.append(job, log, world.impression("r"))
    loop.step()
    clock.advance(-2 * 86_400)
    world.append(job, log, world.impression("s"))
    with pytest.raises(ClockStepped, match="the wall clock must not go back"):
        loop.step()
    assert world.dead_letters(job, log) == []
    clock.advance(2 * 86_400 + 1)
    loop.step()
    assert loop.has_reached(loop.ends())


def test_a_wall_clock_that_steps_back_while_a_read_waits_costs_no_record(world: World) -> None:
    class LogWhoseReadsTakeTheClockBack(world.MemoryLog):
        steps = False

        def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Any]:
            records = super().read(topic, partition, offset, max_records, timeout_s)
            if self.steps:
                self.steps = False
                clock.advance(-8 * HOURS_S)
            return records

    job = world.job()
    log, clock = LogWhoseReadsTakeTheClockBack(), ManualClock(world.now_ms)
    log.records = world.log(job).records
    loop = world.joiner(job, log, clock=clock)
    world.append(job, log, world.impression("r"), world.action("r", "like", 1))
    loop.step()
    world.append(job, log, world.impression("s", 2), world.action("s", "like", 3))
    log.steps = True
    with pytest.raises(ClockStepped):
        loop.step()
    clock.advance(8 * HOURS_S + 5)
    loop.step()
    assert loop.has_reached(loop.ends())
    assert world.dead_letters(job, log) == []


def test_a_wall_clock_that_was_ahead_and_is_right_again_does_not_stop_the_joiner(world: World) -> None:
    job = world.job()
    log, clock = world.log(job), ManualClock(world.now_ms + 8 * 3_600_000)
    kv = MemoryKv()
    loop = world.joiner(job, log, kv, clock=clock)
    world.append(job, log, world.impression("r"), world.action("r", "like", 1))
    loop.step()
    clock.advance(-8 * HOURS_S + 60)
    world.append(job, log, world.impression("s", 60), world.action("s", "like", 61))
    loop.step()
    assert loop.has_reached(loop.ends())
    assert world.dead_letters(job, log) == []


def test_force_starts_the_joiner_under_a_clock_that_disagrees_with_event_time(world: World) -> None:
    job, kv = world.job(), MemoryKv()
    log, clock = world.log(job), ManualClock(world.now_ms + 8 * 3_600_000)
    world.append(job, log, world.impression("r"))
    world.joiner(job, log, kv, clock=clock).step()
    clock.advance(-4 * HOURS_S)
    loop = world.joiner(job, log, kv, clock=clock)
    with pytest.raises(ClockStepped, match="start with --force"):
        loop.step()
    forced = JoinerLoop(job, log, kv, clock)
    forced.start(force=True)
    forced.step()


def test_the_rule_has_one_bound() -> None:
    rule = EventTimeRule(1_000)
    assert rule.fault(6_000, 5_000) is None
    assert rule.fault(6_001, 5_000) is not None
