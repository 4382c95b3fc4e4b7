"""A replay of chosen offsets has the event time of the impressions before them."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from monolith_py.io import open_log
from monolith_streaming.replay.beam import ReplayOptions, run_replay

World = Any


def test_an_impression_that_came_too_late_is_refused_whatever_offsets_are_chosen(world: World, tmp_path: Path) -> None:
    """A replay that began at its offset took it: the topic had no event time before."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}", agreeing_records=2)
    with closing(open_log(job.log.url)) as log:
        world.create_topics(log, job)
        for name, at_s in (("early", 0), ("one", 5_000), ("two", 5_000), ("late", 100), ("after", 5_010)):
            world.append(job, log, world.impression(name, at_s))
            world.append(job, log, world.action(name, "click", at_s + 5))
        world.join(job, log)
        online = world.examples(job, log)
        result = run_replay(job, options=ReplayOptions(offsets={0: (3, 5)}))
        assert {row[0] for row in online} == {"early", "one", "two", "after"}
        assert world.examples(job, log, result.topic) == Counter({row: number for row, number in online.items() if row[0] == "after"})


def test_the_event_time_before_chosen_offsets_passes_a_pause_and_no_clock_ahead(world: World, tmp_path: Path) -> None:
    """After a pause of more than a day every impression looked like one of a clock ahead: the event time stood still."""
    job = world.job(f"sqlite:///{tmp_path / 'log'}", agreeing_records=2)
    monday_s, ahead_s = 3 * 86_400, 9 * 86_400
    with closing(open_log(job.log.url)) as log:
        world.create_topics(log, job)
        shown = [("friday", 0), ("evening", 1), *((f"m{number}", monday_s + 5_000 + number) for number in range(12))]
        shown[5:5] = [("ahead", ahead_s), ("ahead too", ahead_s)]
        last = [("late", monday_s + 100), *((f"after{number}", monday_s + 5_050 + number) for number in range(9))]
        for name, at_s in (*shown, *last):
            world.append(job, log, world.impression(name, at_s))
            world.append(job, log, world.action(name, "click", at_s + 5))
        world.join(job, log)
        online = world.examples(job, log)
        result = run_replay(job, options=ReplayOptions(offsets={0: (len(shown), len(shown) + len(last))}))
        assert {row[0] for row in online} == {name for name, _ in (*shown, *last)} - {"late", "ahead", "ahead too"}
        expected = Counter({row: number for row, number in online.items() if row[0].startswith("after")})
        assert world.examples(job, log, result.topic) == expected
