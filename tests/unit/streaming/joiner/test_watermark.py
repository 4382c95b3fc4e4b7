"""The watermark follows two topics, idle ones, and clocks that jump."""

from __future__ import annotations

import random
from typing import Any

from monolith_streaming.joiner.watermark import MAX_JUMP_MS, RECENT, InputTopic, Watermark, WatermarkState

World = Any
SHOWN, ACTED = InputTopic.IMPRESSIONS, InputTopic.ACTIONS
NOW_MS = 1_700_000_000_000
WALL_MS = NOW_MS + 10 * MAX_JUMP_MS


def watermark_of(state: WatermarkState | None = None, num_agreeing: int = 1) -> Watermark:
    return Watermark(1000, 5.0, num_agreeing, state or WatermarkState(), now_s=100.0)


def read(watermark: Watermark, input_topic: InputTopic, *times_ms: int, now_s: float = 100.0) -> None:
    watermark.note_read(input_topic, len(times_ms), now_s)
    for time_ms in times_ms:
        watermark.observe(input_topic, time_ms, WALL_MS)


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


def test_event_time_is_what_enough_of_the_last_records_have_reached() -> None:
    watermark = watermark_of(num_agreeing=3)
    read(watermark, ACTED, *[NOW_MS + 10_000_000] * 3)
    read(watermark, SHOWN, NOW_MS, NOW_MS + 1)
    assert watermark.clock_ms(SHOWN) < 0 and watermark.advance(100.0) is None
    read(watermark, SHOWN, NOW_MS + 90_000)
    assert watermark.clock_ms(SHOWN) == NOW_MS
    read(watermark, SHOWN, NOW_MS + 90_001, NOW_MS - 5_000_000)
    assert watermark.advance(100.0) == NOW_MS + 1 - 1000
    read(watermark, SHOWN, *range(NOW_MS + 2, NOW_MS + 2 + RECENT))
    assert watermark.clock_ms(SHOWN) == NOW_MS + 2 + RECENT - 3
    read(watermark, SHOWN, NOW_MS + 70_000)
    assert watermark.clock_ms(SHOWN) == NOW_MS + 2 + RECENT - 2, "the two that were ahead are not among the last ones any more"


def test_event_time_does_not_depend_on_the_wall_clock_or_the_other_topic() -> None:
    rng = random.Random(1)
    times_ms = [NOW_MS + number * 500 - rng.choice([0, rng.randrange(400_000)]) for number in range(300)]
    clocks = []
    for wall_ms in (NOW_MS, WALL_MS):
        watermark = watermark_of(num_agreeing=5)
        for time_ms in times_ms:
            if wall_ms == WALL_MS:
                watermark.observe(ACTED, rng.randrange(WALL_MS), wall_ms)
                watermark.advance(100.0)
            watermark.observe(SHOWN, time_ms, wall_ms)
            clocks.append(watermark.clock_ms(SHOWN))
    assert clocks[:300] == clocks[300:] == sorted(clocks[:300])
    assert clocks[299] > NOW_MS + 250 * 500, "stragglers do not hold it back"


def test_a_clock_that_begins_in_the_middle_agrees_once_it_is_past_its_first_records() -> None:
    """So a replay of a range judges as the joiner did that has read all."""
    rng = random.Random(2)
    times_ms = [NOW_MS + number * 500 + rng.choice([0, 0, 60_000]) - rng.choice([0, rng.randrange(99_000)]) for number in range(400)]
    whole, part = watermark_of(num_agreeing=5), watermark_of(num_agreeing=5)
    read(whole, SHOWN, *times_ms[:200])
    begin_ms = max(times_ms[:200])
    num_same = 0
    for time_ms in times_ms[200:]:
        read(whole, SHOWN, time_ms)
        read(part, SHOWN, time_ms)
        assert part.clock_ms(SHOWN) <= whole.clock_ms(SHOWN)
        if whole.clock_ms(SHOWN) > begin_ms:
            assert part.clock_ms(SHOWN) == whole.clock_ms(SHOWN)
            num_same += 1
    assert num_same > 50


def test_a_day_ahead_of_its_topic_is_a_jump() -> None:
    watermark = watermark_of()
    assert not watermark.is_jump(SHOWN, WALL_MS)
    read(watermark, SHOWN, NOW_MS)
    assert watermark.is_jump(SHOWN, NOW_MS + MAX_JUMP_MS + 1) and not watermark.is_jump(SHOWN, NOW_MS + MAX_JUMP_MS)
    assert not watermark.is_jump(ACTED, NOW_MS + MAX_JUMP_MS + 1)


def test_too_few_records_to_agree_close_windows_once_all_is_silent() -> None:
    watermark = watermark_of(num_agreeing=5)
    read(watermark, SHOWN, NOW_MS + 7, NOW_MS)
    read(watermark, ACTED, now_s=100.0)
    read(watermark, SHOWN, now_s=101.0)
    assert watermark.advance(104.0) is None
    assert watermark.advance(111.0) == NOW_MS + 10_000 - 1000


def test_silence_goes_by_the_newest_record_and_not_by_those_that_agree() -> None:
    """In a quiet partition the records that would have to agree come an hour later."""
    watermark = watermark_of(num_agreeing=5)
    for number in range(10):
        watermark.observe(SHOWN, NOW_MS + number * 600_000, NOW_MS + number * 600_000 + 200)
    for topic in (SHOWN, ACTED):
        watermark.note_read(topic, 0, 100.0)
    assert watermark.clock_ms(SHOWN) == NOW_MS + 5 * 600_000
    assert watermark.advance(110.0) == NOW_MS + 9 * 600_000 + 10_000 - 1000
    watermark.observe(SHOWN, NOW_MS + 10 * 600_000 + 250_000, NOW_MS + 10 * 600_000)
    assert watermark.advance(110.0) == NOW_MS + 10 * 600_000 + 10_000 - 1000, "a clock that is ahead counts as the wall clock"


def test_a_quiet_partition_closes_windows_in_time(world: World) -> None:
    from monolith_py.clock import ManualClock

    job = world.job(idle_timeout_s=5, agreeing_records=5)
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop = world.joiner(job, log, clock=clock)
    for number in range(8):
        world.append(job, log, world.impression(f"r{number}", number * 300), world.action(f"r{number}", "like", number * 300 + 1))
        for _ in range(4):
            loop.step()
            clock.advance(75.0)
    loop.step()
    assert sorted(world.labels(job, log)) == [(f"r{number}", 1, "LABELLED", (0, 1)) for number in range(8)]


def test_a_record_that_those_behind_it_leave_alone_becomes_a_dead_letter(world: World) -> None:
    job = world.job(agreeing_records=5)
    log = world.log(job)
    loop = world.joiner(job, log)
    for number in range(20):
        world.append(job, log, world.impression(f"r{number}", number), world.action(f"r{number}", "like", number + 1))
        if number == 7:
            world.append(job, log, world.impression("broken", 5 * 86_400), world.action("r7", "click", 5 * 86_400))
        world.append(job, log, world.action(f"r{number}", "click", number + 1))
    loop.step()
    assert sorted(world.labels(job, log)) == sorted((f"r{number}", 1, "LABELLED", (1, 1)) for number in range(20))
    letters = world.dead_letters(job, log)
    assert sorted((topic, offset) for topic, offset, _ in letters) == [("actions", 15), ("impressions", 8)]
    reasons = {topic: reason for topic, _, reason in letters}
    assert reasons["impressions"].startswith("impression.time_ms must be at most 86400000 ms ahead of the newest event")


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
