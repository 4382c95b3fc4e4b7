"""The watermark follows two topics, idle ones, and clocks that jump."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_streaming.joiner.watermark import MAX_JUMP_MS, MAX_REFUSALS, InputTopic, Watermark, WatermarkState

World = Any
SHOWN, ACTED = InputTopic.IMPRESSIONS, InputTopic.ACTIONS
NOW_MS = 1_700_000_000_000
WALL_MS = NOW_MS + 10 * MAX_JUMP_MS


def watermark_of(state: WatermarkState | None = None) -> Watermark:
    return Watermark(max_out_of_orderness_ms=1000, idle_timeout_s=5.0, state=state or WatermarkState(), now_s=100.0)


def read(watermark: Watermark, input_topic: InputTopic, *times_ms: int, now_s: float = 100.0) -> None:
    watermark.note_read(input_topic, len(times_ms), now_s)
    for time_ms in times_ms:
        assert watermark.observe(input_topic, time_ms, WALL_MS) is None


def test_the_watermark_is_the_newest_time_of_the_slower_topic_less_the_bound() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS, NOW_MS + 50_000)
    assert watermark.advance(100.0) is None
    read(watermark, ACTED, NOW_MS + 20_000, NOW_MS + 10_000)
    assert watermark.advance(100.0) == NOW_MS + 19_000


def test_the_watermark_never_moves_back() -> None:
    watermark = watermark_of(WatermarkState(watermark_ms=NOW_MS + 500_000))
    read(watermark, SHOWN, NOW_MS)
    read(watermark, ACTED, NOW_MS)
    assert watermark.advance(100.0) == NOW_MS + 500_000


def test_an_idle_topic_does_not_hold_the_watermark_back() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS)
    read(watermark, ACTED, now_s=101.0)
    assert watermark.advance(104.9) is None
    assert watermark.advance(105.0) == NOW_MS - 1000


def test_a_pause_of_the_joiner_itself_is_no_idleness() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS)
    read(watermark, ACTED, NOW_MS)
    read(watermark, SHOWN, NOW_MS + 60_000, now_s=200.0)
    read(watermark, ACTED, now_s=200.0)
    assert watermark.advance(200.0) == NOW_MS - 1000


def test_with_both_topics_idle_the_watermark_moves_with_the_wall_clock() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS)
    read(watermark, ACTED, NOW_MS)
    read(watermark, SHOWN, now_s=110.0)
    read(watermark, ACTED, now_s=112.0)
    assert watermark.advance(116.0) == NOW_MS - 1000
    assert watermark.advance(120.0) == NOW_MS - 1000 + 8_000


def test_a_record_far_ahead_of_its_stream_is_refused_and_moves_nothing() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS)
    read(watermark, ACTED, NOW_MS)
    reason = watermark.observe(SHOWN, NOW_MS + MAX_JUMP_MS + 1, wall_ms=WALL_MS)
    assert reason == f"time_ms must be at most {MAX_JUMP_MS} ms ahead of the newest event {NOW_MS}, got {NOW_MS + MAX_JUMP_MS + 1}"
    assert watermark.observe(SHOWN, NOW_MS + MAX_JUMP_MS, wall_ms=WALL_MS) is None
    assert watermark.advance(100.0) == NOW_MS - 1000


def test_a_stream_that_stays_ahead_is_accepted() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS, NOW_MS)
    later_ms = NOW_MS + 3 * MAX_JUMP_MS
    answers = [watermark.observe(SHOWN, later_ms + index, WALL_MS) for index in range(MAX_REFUSALS + 2)]
    assert [answer is None for answer in answers] == [False] * MAX_REFUSALS + [True, True]
    assert watermark.newest_ms == later_ms + MAX_REFUSALS + 1


def test_single_broken_clocks_are_always_refused() -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, NOW_MS, NOW_MS)
    for index in range(10):
        assert watermark.observe(SHOWN, NOW_MS + 3 * MAX_JUMP_MS, WALL_MS) is not None
        assert watermark.observe(SHOWN, NOW_MS + index, WALL_MS) is None


@pytest.mark.parametrize("first_ms", [2, NOW_MS - 2 * MAX_JUMP_MS])
def test_a_first_record_with_a_broken_clock_costs_no_other(first_ms: int) -> None:
    watermark = watermark_of()
    read(watermark, SHOWN, first_ms, NOW_MS, NOW_MS + 1)
    read(watermark, ACTED, NOW_MS + 2)
    assert watermark.observe(SHOWN, NOW_MS + 3 * MAX_JUMP_MS, WALL_MS) is not None
    assert watermark.advance(100.0) == NOW_MS + 1 - 1000


def test_a_record_from_1970_behind_it_makes_no_record_of_a_backlog_a_jump() -> None:
    watermark = watermark_of()
    watermark.note_read(SHOWN, 30, 100.0)
    for index in range(30):
        is_old = index % 10 == 9
        time_ms, limit_ms = (2 if is_old else NOW_MS + index), (2 if index < 29 else None)
        assert watermark.observe(SHOWN, time_ms, WALL_MS, limit_ms) is None
        assert watermark.newest_ms == 2  # those behind it hold the watermark back
    assert watermark.observe(SHOWN, NOW_MS + 30, WALL_MS) is None
    assert watermark.newest_ms == NOW_MS + 30


def test_a_jump_as_long_as_the_wall_clock_s_is_accepted() -> None:
    watermark = watermark_of()
    assert watermark.observe(SHOWN, NOW_MS, wall_ms=NOW_MS) is None
    weekend_ms = 3 * MAX_JUMP_MS
    assert watermark.observe(SHOWN, NOW_MS + weekend_ms, wall_ms=NOW_MS + weekend_ms) is None


def test_no_record_moves_the_watermark_past_the_wall_clock() -> None:
    watermark = watermark_of()
    assert watermark.observe(SHOWN, NOW_MS + 60_000, NOW_MS) is None
    assert watermark.observe(ACTED, NOW_MS + 60_000, NOW_MS) is None
    assert watermark.advance(100.0) == NOW_MS - 1000


def test_a_record_with_a_broken_clock_becomes_a_dead_letter_and_closes_no_window(world: World) -> None:
    job = world.job()
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.impression("r"), world.action("r", "like", 1))
    world.append(job, log, world.impression("broken", 5 * 86_400), world.action("r", "click", 5 * 86_400))
    world.append(job, log, world.impression("next", 2), world.action("r", "click", 2))
    loop.step()
    assert world.labels(job, log) == [("r", 1, "LABELLED", (1, 1))]
    letters = world.dead_letters(job, log)
    assert sorted((topic, offset) for topic, offset, _ in letters) == [("actions", 1), ("impressions", 1)]
    reasons = {topic: reason for topic, _, reason in letters}
    assert reasons["impressions"].startswith("impression.time_ms must be at most")


def test_silence_closes_windows_by_the_wall_clock(world: World) -> None:
    from monolith_py.clock import ManualClock

    job = world.job(idle_timeout_s=5)
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop = world.joiner(job, log, clock=clock)
    world.append(job, log, world.impression("r"))
    loop.step()
    clock.advance(109.0)
    loop.step()
    loop.step()
    assert world.labels(job, log) == []
    clock.advance(110.0)
    loop.step()
    assert world.labels(job, log) == [("r", 1, "LABELLED", (0, 0))]


def test_records_that_end_a_silence_between_two_reads_are_joined(world: World) -> None:
    """An impression and its actions arrive between the reads of the two topics in a step, after both were idle for long."""
    from monolith_py.clock import ManualClock

    class LogThatIsWoken(world.MemoryLog):
        wakes = False

        def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Any]:
            records = super().read(topic, partition, offset, max_records, timeout_s)
            if self.wakes:
                self.wakes = False
                world.append(job, self, world.impression("r"), world.action("r", "like", 1), world.action("r", "click", 2))
                world.append(job, self, world.impression("s", 130), world.action("s", "like", 131))
            return records

    job = world.job(idle_timeout_s=5)
    log, clock = LogThatIsWoken(), ManualClock(world.now_ms)
    log.records = world.log(job).records
    loop = world.joiner(job, log, clock=clock)
    loop.step()
    clock.advance(60.0)
    log.wakes = True
    loop.step()
    loop.step()
    clock.advance(110.0)
    loop.step()
    assert world.dead_letters(job, log) == []
    assert ("r", 1, "LABELLED", (1, 1)) in world.labels(job, log)
