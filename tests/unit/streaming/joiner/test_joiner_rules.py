"""Examples of each order of impressions, actions and time, from a whole joiner on a log in memory."""

from __future__ import annotations

from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import parse_job
from monolith_py.errors import ConfigError
from monolith_streaming.joiner.rules import Rules

World = Any
LABELLED, RETRACTION = "LABELLED", "RETRACTION"


def test_a_candidate_without_action_becomes_a_negative_when_its_window_closes(world: World) -> None:
    job = world.job(allowed_lateness_s=0)
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.impression("r"), world.action("other", "click", 0))
    loop.step()
    world.append(job, log, world.impression("later", 109.9), world.action("other", "click", 109.9))
    loop.step()
    assert world.labels(job, log) == []
    world.append(job, log, world.impression("later", 110), world.action("other", "click", 110))
    loop.step()
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0))]


def test_one_example_is_made_for_each_candidate(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r", items=(1, 2, 3)), world.action("r", "click", 5, item=2))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0)), ("r", 2, LABELLED, (1, 0)), ("r", 3, LABELLED, (0, 0))]


def test_a_candidate_is_emitted_at_once_when_every_task_is_positive(world: World) -> None:
    job = world.job()
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.impression("r", items=(1, 2)), world.action("r", "click", 5), world.action("r", "like", 6))
    loop.step()
    assert world.labels(job, log) == [("r", 1, LABELLED, (1, 1))]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_terminal_action_ends_the_wait_at_once_for_any_value(world: World, value: float) -> None:
    job = world.job(terminal_actions=["end"])
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.impression("r"), world.action("r", "like", 5), world.action("r", "end", 6, value=value))
    loop.step()
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 1))]


def test_an_action_of_value_zero_makes_no_label(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "click", 5, value=0.0))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0))]


def test_an_action_of_a_kind_without_a_task_is_no_fault(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "share", 5), world.action("unknown", "share", 5))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0))]
    assert world.dead_letters(job, log) == []


def test_a_late_action_retracts_the_negative_of_its_task_once(world: World) -> None:
    job = world.job()
    log = world.log(job)
    late = world.action("r", "like", 150)
    world.append(job, log, world.impression("r"), world.action("r", "click", 5), late, late)
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (1, 0)), ("r", 1, RETRACTION, (0, 1))]


def test_an_action_at_the_deadline_is_late_even_if_its_window_is_still_open(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "like", 99.999), world.action("r", "click", 100))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 1)), ("r", 1, RETRACTION, (1, 0))]


def test_the_policy_drop_refuses_late_actions(world: World) -> None:
    job = world.job(late="drop")
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "click", 150))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0))]


def test_an_action_after_the_allowed_lateness_changes_nothing(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "click", 1100))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0))]


def test_actions_may_arrive_before_their_impression(world: World) -> None:
    job = world.job()
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.action("r", "click", 5))
    loop.step()
    world.append(job, log, world.impression("r"))
    loop.step()
    loop.close_all()
    assert world.labels(job, log) == [("r", 1, LABELLED, (1, 0))]


def test_an_action_without_impression_becomes_a_dead_letter_after_its_wait(world: World) -> None:
    job = world.job()
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.action("nobody", "click", 0), world.impression("r"))
    loop.step()
    world.append(job, log, world.action("r", "click", 119.9), world.impression("later", 119.9))
    loop.step()
    assert world.dead_letters(job, log) == []
    world.append(job, log, world.action("r", "click", 120), world.impression("later", 120))
    loop.step()
    ((topic, offset, reason),) = world.dead_letters(job, log)
    assert (topic, offset) == ("actions", 0)
    assert "action.request_id" in reason


@pytest.mark.parametrize("late_s", [109.9, 110])
def test_an_impression_that_comes_when_its_actions_may_be_refused_is_refused_as_a_whole(world: World, late_s: float) -> None:
    """A replica that could not reach the log for longer than the window: its requests were learnt as negatives."""
    job = world.job()
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.action("r", "click", 1), world.impression("other", late_s), world.action("other", "click", 400))
    loop.step()
    world.append(job, log, world.impression("r"), world.impression("r"), world.impression("other", late_s))
    world.pass_time(job, log, 400)
    world.join(job, log)
    labels = {(request_id, kind): labels for request_id, _, kind, labels in world.labels(job, log) if request_id != "later0"}
    letters = [letter[:2] for letter in world.dead_letters(job, log)]
    if late_s < 110:
        assert labels["r", LABELLED] == (1, 0) and letters == []
    else:
        assert labels.keys() == {("other", LABELLED), ("other", RETRACTION)}
        assert sorted(letters) == [("actions", 0), ("impressions", 1), ("impressions", 2)], "the copy of the other one is none"


def test_an_impression_that_comes_after_silence_past_its_window_is_refused(world: World) -> None:
    """All replicas were cut off from the log while actions went on, so the topic of impressions does not tell how late it is."""
    job = world.job(idle_timeout_s=5)
    log, clock = world.log(job), ManualClock(world.now_ms + 86_400_000)
    loop = world.joiner(job, log, clock=clock)
    world.append(job, log, world.impression("before"), world.action("r", "click", 1))
    loop.step()
    for second in range(10, 200, 10):
        clock.advance(10)
        world.append(job, log, world.action("other", "click", second))
        loop.step()
    world.append(job, log, world.impression("r"), world.impression("s", 150))
    loop.step()
    loop.close_all()
    assert sorted(row[0] for row in world.labels(job, log)) == ["before", "s"]
    assert {("actions", 0), ("impressions", 1)} <= {letter[:2] for letter in world.dead_letters(job, log)}


def test_an_action_on_an_item_that_was_not_shown_becomes_a_dead_letter(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "click", 1, item=99))
    world.join(job, log)
    ((topic, offset, reason),) = world.dead_letters(job, log)
    assert (topic, offset) == ("actions", 0)
    assert "action.item_id" in reason
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0))]


def test_repeated_impressions_and_actions_change_nothing(world: World) -> None:
    job = world.job()
    log = world.log(job)
    events = [world.impression("r", items=(1, 2)), world.action("r", "click", 5), world.action("r", "like", 150, item=2)]
    world.append(job, log, *events, *events, *events)
    world.join(job, log)
    assert sorted(world.labels(job, log)) == [("r", 1, LABELLED, (1, 0)), ("r", 2, LABELLED, (0, 0)), ("r", 2, RETRACTION, (0, 1))]


def test_a_repeated_impression_of_a_forgotten_request_is_refused(world: World) -> None:
    job = world.job(allowed_lateness_s=20)
    log = world.log(job)
    loop = world.joiner(job, log)
    world.append(job, log, world.impression("r"), world.action("x", "share", 0))
    loop.step()
    world.append(job, log, world.impression("later", 130), world.action("x", "share", 130))
    loop.step()
    world.append(job, log, world.impression("r"))
    loop.step()
    loop.close_all()
    assert world.labels(job, log) == [("r", 1, LABELLED, (0, 0)), ("later", 1, LABELLED, (0, 0))]
    ((topic, offset, reason),) = world.dead_letters(job, log)
    assert (topic, offset) == ("impressions", 2)
    assert "impression.time_ms" in reason


def test_an_item_twice_in_a_request_makes_one_example(world: World) -> None:
    job = world.job()
    log = world.log(job)
    world.append(job, log, world.impression("r", items=(1, 2, 1)), world.action("r", "click", 5))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, LABELLED, (1, 0)), ("r", 2, LABELLED, (0, 0))]


def test_nothing_is_left_in_the_store_but_the_position_when_all_is_forgotten(world: World) -> None:
    from monolith_py.io import MemoryKv

    job = world.job(allowed_lateness_s=20)
    log, kv = world.log(job), MemoryKv()
    loop = world.joiner(job, log, kv)
    world.append(job, log, world.impression("r", items=(1, 2)), world.action("r", "click", 5), world.action("nobody", "like", 5))
    loop.step()
    assert [key for key, _ in kv.scan("joiner:test:examples:block:")] == ["joiner:test:examples:block:0:1"]
    world.append(job, log, world.impression("last", 5000), world.action("x", "share", 5000))
    loop.step()
    assert [partition.joiner.core.num_requests for partition in loop._partitions] == [1]
    assert [key for key, _ in kv.scan("joiner:test:examples:block:")] == ["joiner:test:examples:block:0:2"]


def test_a_due_time_that_changes_and_changes_back_closes_the_request_once(world: World) -> None:
    """Found by tests/fuzz: early action due at 120 s, impression at 100 s, closed request at 120 s."""
    job = world.job(allowed_lateness_s=20, terminal_actions=["end"])
    log = world.log(job)
    loop = world.joiner(job, log)
    for event in (world.action("r", "like", 10), world.impression("r"), world.action("r", "end", 20)):
        world.append(job, log, event)
        loop.step()
    world.append(job, log, world.impression("last", 500), world.action("x", "share", 500))
    loop.step()
    assert world.labels(job, log) == [("r", 1, "LABELLED", (0, 1))]


def test_more_tasks_than_label_bits_are_refused(world: World) -> None:
    settings = world.job().model_dump()
    settings["tasks"] = [{"name": f"t{index}", "action": "a"} for index in range(65)]
    with pytest.raises(ConfigError, match=r"tasks must have at most 64 item\(s\), got 65"):
        Rules.of(parse_job(settings))
