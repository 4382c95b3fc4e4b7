"""Age of a model: own clock, publish time as far as it can be right, event time; fresh once it has caught up."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from monolith_py.clock import ManualClock
from monolith_py.config import ServingConfig
from monolith_py.errors import LogError
from monolith_py.sync import Delta
from monolith_serving.replica.staleness import EndOfUpdates, Staleness

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class WallClock(ManualClock):
    """A clock whose wall clock can be set."""

    def __init__(self) -> None:
        super().__init__(NOW_MS)
        self.wrong_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.wrong_ms


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


def loaded(clock: WallClock, *, saved_ms: int = NOW_MS, watermark_ms: int = 0, **settings: Any) -> Staleness:
    staleness = Staleness(clock, ServingConfig(**settings))
    staleness.note_load(saved_ms, watermark_ms)
    return staleness


def arrive(staleness: Staleness, published_ms: int, watermark_ms: int = 1) -> None:
    staleness.note_delta(Delta(1, 1, watermark_ms, published_ms))


def test_a_model_is_as_old_as_its_newest_delta_and_grows_older_by_the_monotonic_clock(clock):
    staleness = loaded(clock, saved_ms=NOW_MS - 60_000)
    assert staleness.staleness_ms() == 60_000
    arrive(staleness, NOW_MS - 250)
    clock.advance(2.0)
    assert staleness.staleness_ms() == 2_250
    clock.wrong_ms = -HOUR_MS
    assert staleness.staleness_ms() == 2_250
    clock.wrong_ms = HOUR_MS
    assert staleness.staleness_ms() == 2_250


def test_a_delta_from_a_clock_an_hour_ahead_is_new_at_its_arrival_and_then_grows_old(clock):
    """It was 0 ms old for an hour: serving.md, row 9."""
    staleness = loaded(clock)
    arrive(staleness, NOW_MS + HOUR_MS)
    assert staleness.staleness_ms() == 0
    clock.advance(3_000.0)
    assert staleness.staleness_ms() == 3_000_000


@pytest.mark.parametrize("wrong_ms", [-HOUR_MS, HOUR_MS])
def test_a_delta_from_a_wrong_clock_is_younger_than_the_moment_at_which_there_was_nothing_newer(clock, wrong_ms):
    staleness = loaded(clock)
    clock.advance(1.0)
    staleness.note_read(clock.monotonic_s())
    clock.advance(0.25)
    arrive(staleness, clock.now_ms() + wrong_ms)
    assert staleness.staleness_ms() in (0, 250)
    clock.advance(1.0)
    assert staleness.staleness_ms() in (1_000, 1_250)


def test_a_step_of_the_replicas_own_wall_clock_makes_no_delta_old(clock):
    staleness = loaded(clock)
    staleness.note_read(clock.monotonic_s())
    clock.wrong_ms = HOUR_MS
    clock.advance(0.25)
    arrive(staleness, NOW_MS)
    assert staleness.staleness_ms() == 250


def test_while_it_catches_up_a_model_is_as_old_as_what_it_applies(clock):
    staleness = loaded(clock, saved_ms=NOW_MS - HOUR_MS)
    arrive(staleness, NOW_MS - HOUR_MS // 2)
    assert staleness.staleness_ms() == HOUR_MS // 2
    staleness.note_read(clock.monotonic_s())
    staleness.note_load(NOW_MS - HOUR_MS, 0)  # the first one could not be followed
    arrive(staleness, NOW_MS - HOUR_MS // 2)
    assert staleness.staleness_ms() == HOUR_MS // 2


def test_the_event_time_of_a_model_is_that_of_its_newest_delta_and_may_go_back(clock):
    staleness = loaded(clock, watermark_ms=NOW_MS - 10_000)
    assert staleness.event_staleness_ms() == 10_000
    arrive(staleness, NOW_MS, watermark_ms=NOW_MS - 3_000)
    clock.advance(1.0)
    assert staleness.event_staleness_ms() == 4_000
    arrive(staleness, NOW_MS, watermark_ms=NOW_MS - HOUR_MS)  # after a rollback
    assert staleness.event_staleness_ms() == HOUR_MS + 1_000
    arrive(staleness, NOW_MS, watermark_ms=NOW_MS + HOUR_MS)
    assert staleness.event_staleness_ms() == 0


def test_a_model_that_has_learnt_nothing_and_no_model_have_no_age_by_event_time(clock):
    assert loaded(clock).event_staleness_ms() == 0
    empty = Staleness(clock, ServingConfig())
    clock.advance(5.0)
    assert (empty.staleness_ms(), empty.event_staleness_ms(), empty.behind_s()) == (0, 0, 0.0)


def test_a_replica_is_fresh_once_it_has_caught_up(clock):
    staleness = loaded(clock)
    assert not staleness.is_fresh
    clock.advance(5.0)
    staleness.note_read(None)
    assert not staleness.is_fresh and staleness.behind_s() == 5.0
    staleness.note_read(clock.monotonic_s())
    assert staleness.is_fresh and staleness.behind_s() == 0.0


def test_a_replica_that_cannot_catch_up_is_taken_as_fresh_after_the_time_allowed(clock):
    staleness = loaded(clock, max_catch_up_s=60.0)
    clock.advance(59.0)
    assert not staleness.is_fresh
    clock.advance(1.0)
    assert staleness.is_fresh
    assert loaded(clock, max_catch_up_s=0.0).is_fresh


def test_a_replica_that_lacks_updates_for_too_long_is_not_fresh_until_it_has_them(clock):
    staleness = loaded(clock, max_behind_s=30.0)
    staleness.note_read(clock.monotonic_s())
    clock.advance(30.0)
    staleness.note_read(None)
    assert staleness.is_fresh
    clock.advance(0.1)
    staleness.note_read(None)
    assert not staleness.is_fresh
    staleness.note_load(clock.now_ms(), 0)
    assert not staleness.is_fresh
    staleness.note_read(clock.monotonic_s())
    assert staleness.is_fresh


def test_time_in_which_the_log_cannot_be_reached_does_not_count_as_behind(clock):
    staleness = loaded(clock, max_behind_s=30.0)
    staleness.note_read(clock.monotonic_s())
    clock.advance(10.0)
    staleness.note_read(None)
    for _ in range(100):
        clock.advance(10.0)
        staleness.note_unreachable()
    assert staleness.is_fresh and staleness.behind_s() == 10.0
    clock.advance(5.0)
    staleness.note_read(None)
    assert staleness.behind_s() == 15.0


def test_a_replica_that_follows_no_updates_is_fresh(clock):
    staleness = loaded(clock, follow_updates=False)
    clock.advance(1e6)
    assert staleness.is_fresh and staleness.behind_s() == 0.0


class EndLog:
    """A log with an end that the test sets; None: it cannot be reached."""

    def __init__(self) -> None:
        self.end: int | None = 10
        self.num_looks = 0

    def end_offset(self, topic: str) -> int:
        self.num_looks += 1
        if self.end is None:
            raise LogError("away as planned")
        return self.end


class At:
    """A subscriber at an offset, after a read that found nothing or something."""

    def __init__(self, offset: int, *, is_at_end: bool = False) -> None:
        self.offset, self.is_at_end = offset, is_at_end


def test_all_updates_are_applied_as_of_an_empty_read(clock):
    end = EndOfUpdates(EndLog(), "updates", clock)
    assert end.level_s(At(3, is_at_end=True), 77.0) == 77.0


def test_under_steady_updates_they_are_applied_as_of_the_moment_whose_end_is_reached(clock):
    log = EndLog()
    end, asked_s = EndOfUpdates(log, "updates", clock), clock.monotonic_s()
    assert end.level_s(At(3), asked_s) is None
    log.end = 99
    clock.advance(0.25)
    assert end.level_s(At(9), clock.monotonic_s()) is None
    clock.advance(0.25)
    assert end.level_s(At(10), clock.monotonic_s()) == asked_s
    assert log.num_looks == 1, "a look each second at most"
    clock.advance(0.5)
    assert end.level_s(At(20), clock.monotonic_s()) is None
    assert log.num_looks == 2


def test_an_end_that_cannot_be_asked_for_says_nothing(clock):
    log = EndLog()
    log.end = None
    end = EndOfUpdates(log, "updates", clock)
    assert end.level_s(At(100), clock.monotonic_s()) is None
    assert end.level_s(At(100), clock.monotonic_s()) is None


def test_each_arm_of_a_split_shows_its_own_age(clock):
    ages_s = {"gauge_old": 60.0, "gauge_new": 5.0}
    both = [loaded(clock, saved_ms=NOW_MS - round(1000 * age_s), arm=arm) for arm, age_s in ages_s.items()]
    for staleness in both:
        staleness.report()
    assert {arm: REGISTRY.get_sample_value("monolith_staleness_seconds", {"arm": arm}) for arm in ages_s} == ages_s
