"""Working off a backlog emits examples in nearly the order in which a joiner that kept up would have emitted them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from monolith_py.clock import ManualClock
from monolith_py.data.events import Action, Impression
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import MemoryKv

World = Any
WINDOW_S, OUT_OF_ORDER_S = 100, 10
NUM_REQUESTS, NUM_CANDIDATES, SECONDS_BETWEEN = 600, 8, 2.0


@pytest.fixture(scope="module")
def events(world: World) -> list[tuple[float, Impression | Action]]:
    """Requests of eight candidates, one click in five of them within half a minute; (event time in seconds, event), in order."""
    generator = np.random.default_rng(3)
    stream: list[tuple[float, Impression | Action]] = []
    for number in range(NUM_REQUESTS):
        at_s = number * SECONDS_BETWEEN
        items = [number * 10 + place for place in range(NUM_CANDIDATES)]
        stream.append((at_s, world.impression(f"r{number}", at_s, items)))
        for item in items:
            if generator.random() < 0.2:
                acted_s = at_s + float(generator.uniform(1, 30))
                stream.append((acted_s, world.action(f"r{number}", "click", acted_s, item)))
                stream.append((acted_s + 0.1, world.action(f"r{number}", "like", acted_s + 0.1, item)))
    return sorted(stream, key=lambda one: one[0])


def joined_in_one_go(world: World, job: Any, events: list[tuple[float, Any]]) -> ExampleBatch:
    log = world.log(job)
    world.append(job, log, *(event for _, event in events))
    world.join(job, log)
    return ExampleBatch.concat(world.batches(job, log))


def joined_live(world: World, job: Any, events: list[tuple[float, Any]]) -> ExampleBatch:
    """Join event by event, as they happen."""
    log, clock = world.log(job), ManualClock(world.now_ms)
    loop = world.joiner(job, log, clock=clock)
    now_s = 0.0
    for at_s, event in events:
        clock.advance(max(at_s - now_s, 0.0))
        now_s = max(at_s, now_s)
        world.append(job, log, event)
        loop.step()
    loop.close_all()
    return ExampleBatch.concat(world.batches(job, log))


def known_s(examples: ExampleBatch, events: list[tuple[float, Any]], emit: str) -> np.ndarray:
    """Return the event time at which each example was known, seconds: the last action's, or the end of the window.

    No request has actions on all of its candidates, so whole requests are known at the end of the window.
    """
    acted = {(event.request_id, event.item_id): at_s for at_s, event in events if isinstance(event, Action) and emit == "candidate"}
    shown = {event.request_id: at_s for at_s, event in events if isinstance(event, Impression)}
    keys = zip(examples.request_ids, examples.item_ids.tolist(), strict=True)
    return np.array([acted.get(key, shown[key[0]] + WINDOW_S) for key in keys])


def batches(examples: ExampleBatch, size: int = 256) -> Iterator[ExampleBatch]:
    return (examples.slice(start, start + size) for start in range(0, len(examples), size))


@pytest.mark.parametrize("emit", ["candidate", "request"])
@pytest.mark.parametrize("max_records", [7, 100, 2000])
def test_a_backlog_gives_the_examples_in_the_order_in_which_their_labels_were_known(
    world: World, events: list[tuple[float, Any]], max_records: int, emit: str
) -> None:
    job = world.job(max_records=max_records, examples_per_record=256, emit=emit)
    examples = joined_in_one_go(world, job, events)
    assert len(examples) == NUM_REQUESTS * NUM_CANDIDATES
    times_s = known_s(examples, events, emit)
    # A window closes when event time is OUT_OF_ORDER_S past its end. Event time stops at the last impression, and then all windows close.
    within_s = times_s[times_s < (NUM_REQUESTS - 1) * SECONDS_BETWEEN - OUT_OF_ORDER_S]
    inversions_s = np.maximum.accumulate(within_s) - within_s
    assert len(within_s) > 0.85 * len(examples)
    assert inversions_s.max() <= OUT_OF_ORDER_S + 2 * SECONDS_BETWEEN
    # Read in one go, positives came first: batches of them, then batches of negatives.
    shares = np.array([batch.labels["is_click"].mean() for batch in batches(examples)])
    assert shares.max() < 0.45


@pytest.mark.parametrize("emit", ["candidate", "request"])
def test_a_backlog_gives_nearly_the_order_of_the_live_joiner(world: World, events: list[tuple[float, Any]], emit: str) -> None:
    job = world.job(examples_per_record=256, idle_timeout_s=1e6, emit=emit)
    live, late = joined_live(world, job, events), joined_in_one_go(world, job, events)
    places = [{key: place for place, key in enumerate(zip(one.request_ids, one.item_ids.tolist(), strict=True))} for one in (live, late)]
    assert places[0].keys() == places[1].keys()
    moved = np.array([abs(places[0][key] - places[1][key]) for key in places[0]])
    assert moved.max() <= 2 * NUM_CANDIDATES


def test_a_topic_that_is_ahead_waits_for_the_backlog_of_the_other(world: World) -> None:
    job = world.job(max_records=4)
    log = world.log(job)
    world.append(job, log, *(world.impression(f"r{number}", number * 20) for number in range(40)))
    world.append(job, log, *(world.action(f"r{number}", "click", number * 20 + 1) for number in range(40)))
    world.append(job, log, *(world.action(f"r{number}", "like", number * 20 + 2) for number in range(40)))  # read long after the clicks
    world.join(job, log)
    assert len(world.labels(job, log)) >= 40 and not world.dead_letters(job, log)


def test_a_joiner_killed_with_records_read_ahead_reads_them_again(world: World, events: list[tuple[float, Any]]) -> None:
    job = world.job(max_records=50)
    log, kv = world.log(job), MemoryKv()
    world.append(job, log, *(event for _, event in events))
    for _ in range(5):  # killed again and again, in the middle of a step, with records in memory that no commit covers
        loop = world.joiner(job, log, kv)
        for _ in range(7):
            loop.step()
    world.join(job, log, kv)
    expected = world.log(job)
    world.append(job, expected, *(event for _, event in events))
    world.join(job, expected)
    assert world.examples(job, log) == world.examples(job, expected)


def test_actions_out_of_order_in_their_topic_do_not_change_the_labels_of_others(world: World) -> None:
    """Every sixth action has a time 90 s after its neighbours', which is more than the stream's bound: it comes late, and nobody else's."""
    stream: list[Impression | Action] = []
    for number in range(240):
        stream.append(world.impression(f"r{number}", number))
        if number % 3 == 0:
            stream.append(world.action(f"r{number}", "click", number + (190 if number % 6 == 0 else 3)))
    job = world.job(max_records=50, idle_timeout_s=1e6, agreeing_records=5)
    log = world.log(job)
    world.append(job, log, *stream)
    world.join(job, log)
    for number in range(240):
        found = [(kind, labels[0]) for request_id, _, kind, labels in world.labels(job, log) if request_id == f"r{number}"]
        if number % 6 == 0:
            assert found == [("LABELLED", 0), ("RETRACTION", 1)]
        else:
            assert found == [("LABELLED", int(number % 3 == 0))], number
