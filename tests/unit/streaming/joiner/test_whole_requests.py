"""`joiner.emit` = request: all candidates of a request are emitted together, once the labels of the last one are known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from monolith_py.data.examples import ExampleBatch
from monolith_py.io import MemoryKv

World = Any


def emitted(world: World, job: Any, *events: Any) -> list[tuple[str, int, str, tuple[int, ...]]]:
    """Return (request id, item, kind, labels) after the events, before any window is closed by the end."""
    log = world.log(job)
    world.append(job, log, *events)
    loop = world.joiner(job, log)
    for _ in range(5):
        loop.step()
    return world.labels(job, log)


def test_candidates_whose_labels_are_known_wait_for_the_others(world: World) -> None:
    job = world.job(emit="request", terminal_actions=("done",))
    shown = world.impression("r", items=(1, 2, 3))
    first = [world.action("r", "click", 5, 1), world.action("r", "like", 6, 1), world.action("r", "done", 7, 2)]
    assert emitted(world, job, shown, *first) == []
    together = [("r", 1, "LABELLED", (1, 1)), ("r", 2, "LABELLED", (0, 0)), ("r", 3, "LABELLED", (0, 0))]
    assert emitted(world, job, shown, *first, world.action("r", "done", 8, 3)) == together
    # The window closes at 100 s, and event time is 10 s behind.
    assert emitted(world, job, shown, *first, world.impression("s", 111), world.action("s", "click", 111)) == together


def test_an_action_on_a_known_candidate_still_counts(world: World) -> None:
    job = world.job(emit="request", terminal_actions=("done",))
    events = [world.impression("r", items=(1, 2)), world.action("r", "done", 5, 1), world.action("r", "click", 6, 1)]
    assert emitted(world, job, *events, world.action("r", "done", 7, 2)) == [("r", 1, "LABELLED", (1, 0)), ("r", 2, "LABELLED", (0, 0))]


@pytest.mark.parametrize("emit", ["candidate", "request"])
def test_a_terminal_action_of_the_request_closes_every_candidate(world: World, emit: str) -> None:
    """Its item need not be a candidate."""
    job = world.job(emit=emit, request_terminal_actions=("leave",))
    shown, click = world.impression("r", items=(1, 2, 3)), world.action("r", "click", 5, 2)
    expected = [("r", 1, "LABELLED", (0, 0)), ("r", 2, "LABELLED", (1, 0)), ("r", 3, "LABELLED", (0, 0))]
    assert emitted(world, job, shown, click, world.action("r", "leave", 9, 0)) == expected
    assert emitted(world, job, click, world.action("r", "leave", 9, 0), shown) == expected  # both before the impression
    late = emitted(world, job, shown, click, world.action("r", "leave", 9, 0), world.action("r", "click", 12, 3))
    assert late == [*expected, ("r", 3, "RETRACTION", (1, 0))]


def test_a_terminal_action_of_the_request_after_the_window_has_no_effect(world: World) -> None:
    job = world.job(request_terminal_actions=("leave",))
    log = world.log(job)
    world.append(job, log, world.impression("r"), world.action("r", "leave", 120, 0))
    world.join(job, log)
    assert world.labels(job, log) == [("r", 1, "LABELLED", (0, 0))] and not world.dead_letters(job, log)


def test_known_candidates_survive_a_restart(world: World) -> None:
    job = world.job(emit="request", terminal_actions=("done",))
    log, kv = world.log(job), MemoryKv()
    for event in (world.impression("r", items=(1, 2)), world.action("r", "click", 3, 1), world.action("r", "done", 5, 1)):
        world.append(job, log, event)
        loop = world.joiner(job, log, kv)
        for _ in range(3):
            loop.step()
    assert world.labels(job, log) == []
    world.append(job, log, world.action("r", "done", 6, 2))
    world.join(job, log, kv)
    assert world.labels(job, log) == [("r", 1, "LABELLED", (1, 0)), ("r", 2, "LABELLED", (0, 0))]


def test_positives_wait_for_the_window(world: World) -> None:
    """All tasks of both requests are positive at 6 s; the windows close at 100 s and 120 s, and event time is 10 s behind."""
    job = world.job(emit="window")
    shown = [world.impression("r"), world.impression("s", 20)]
    acted = [world.action("r", "click", 5, 1), world.action("r", "like", 6, 1), world.action("s", "click", 25, 1)]
    first, second = ("r", 1, "LABELLED", (1, 1)), ("s", 1, "LABELLED", (1, 0))
    assert emitted(world, job, *shown, *acted) == []
    assert emitted(world, job, *shown, *acted, world.impression("t", 111), world.action("t", "click", 111)) == [first]
    assert emitted(world, job, *shown, *acted, world.impression("t", 131), world.action("t", "click", 131)) == [first, second]


def test_all_units_give_the_same_examples(world: World) -> None:
    """A stream of clicks within the window; only the order differs, and whole requests stand together."""
    generator = np.random.default_rng(5)
    events = []
    for number in range(60):
        items = [number * 10 + place for place in range(1 + number % 7)]
        events.append((number * 3.0, world.impression(f"r{number}", number * 3.0, items)))
        events += [
            (at_s, world.action(f"r{number}", kind, at_s, item))
            for item in items
            for kind in ("click", "like")
            if generator.random() < 0.4
            for at_s in [number * 3.0 + float(generator.uniform(0, 90))]
        ]
    events.sort(key=lambda one: one[0])
    rows = {}
    for emit in ("candidate", "request", "window"):
        job = world.job(emit=emit)
        log = world.log(job)
        world.append(job, log, *(event for _, event in events))
        world.join(job, log)
        rows[emit] = world.examples(job, log)
        ids = ExampleBatch.concat(world.batches(job, log)).request_ids
    assert rows["candidate"] == rows["request"] == rows["window"]
    assert sum(one != other for one, other in pairwise(ids)) == 59
