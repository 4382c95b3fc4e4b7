"""No example has a label that the log contradicts, however late and in what order its records come: against a plain account of the log."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig
from monolith_py.data.events import Action, Impression
from monolith_py.data.examples import ExampleKind
from monolith_py.io import MemoryKv, MemoryLog
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.position import Position, Progress
from monolith_streaming.joiner.request import NEVER_MS, Reason
from monolith_streaming.joiner.sampling import is_kept

from .core_joiner import Core
from .reference import Reference

World = Any
WINDOW_S, LATE_S, OUT_OF_ORDER_S = 100, 300, 10
BITS = {"click": 0, "like": 1}
# Delays of impressions behind their time: within the bounds, around them, and far beyond.
DELAYS_S = [0, 0, 0, 0, 5, 60, 99, 105, 109, 110, 111, 115, 119, 121, 200, 450, 900]
Example = tuple[str, int, int, tuple[int, ...]]  # request id, item, kind, labels


class Joiner(Protocol):
    """Interface of the core and of the reference."""

    def step(self) -> tuple[int, bool]: ...
    def results(self, size: int, names: list[str]) -> dict[str, Any]: ...
    def commit(self) -> None: ...
    def close_all(self) -> Iterator[None]: ...


@dataclass
class Account:
    """Outcome of the records of a log: examples, and offsets of refused records with the reason."""

    examples: Counter[Example] = field(default_factory=Counter)
    actions: dict[int, Reason] = field(default_factory=dict)
    impressions: set[int] = field(default_factory=set)
    copies: set[int] = field(default_factory=set)  # of impressions that were taken: refused once their request is forgotten

    def take(self, results: dict[str, Any]) -> None:
        """Add the results of a step of a joiner."""
        for value in results["records"]:
            batch = decode_examples(value)
            labels = zip(*(column.tolist() for column in batch.labels.values()), strict=True)
            for request_id, item, kind, bits in zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), labels, strict=True):
                self.examples[request_id, item, kind, tuple(map(int, bits))] += 1
        for _, offset, _, reason in results["refused"]:
            assert offset not in self.actions
            self.actions[offset] = Reason(reason)
        self.impressions |= {offset for offset, _ in results["too_late"]}


def account_of(job: JobConfig, impressions: list[Impression], actions: list[Action]) -> Account:
    """Return what the page on late events says of these records, in the order of their topics. The rules a second time, in plain words."""
    found, rules = Account(), job.joiner
    window_ms, lateness_ms, slack_ms = (round(1000 * s) for s in (rules.window_s, rules.allowed_lateness_s, rules.max_out_of_orderness_s))
    taken: dict[str, tuple[Impression, int]] = {}
    clocks = clocks_of([impression.time_ms for impression in impressions], rules.agreeing_records)
    for offset, (impression, clock_ms) in enumerate(zip(impressions, clocks, strict=True)):
        if impression.request_id in taken:
            found.copies.add(offset)
        elif clock_ms - slack_ms >= impression.time_ms + window_ms:
            found.impressions.add(offset)
        else:
            taken[impression.request_id] = impression, clock_ms
    labels: dict[tuple[str, int], list[int]] = {(name, item): [0, 0] for name, (one, _) in taken.items() for item in one.item_ids.tolist()}
    late: dict[tuple[str, int], list[str]] = defaultdict(list)
    ended: set[tuple[str, int]] = set()
    clocks = clocks_of([action.time_ms for action in actions], rules.agreeing_records)
    for offset, (action, clock_ms) in enumerate(zip(actions, clocks, strict=True)):
        key = (action.request_id, action.item_id)
        if action.kind not in BITS and action.kind not in rules.terminal_actions:
            continue
        if action.request_id not in taken:
            found.actions[offset] = Reason.NO_IMPRESSION
            continue
        impression, shown_ms = taken[action.request_id]
        deadline_ms = impression.time_ms + window_ms
        if shown_ms - slack_ms >= max(action.time_ms, clock_ms) + window_ms + slack_ms:
            assert max(action.time_ms, clock_ms) < impression.time_ms - slack_ms, "no other one may be lost"
            found.actions[offset] = Reason.NO_IMPRESSION
        elif key not in labels:
            found.actions[offset] = Reason.NO_CANDIDATE
        elif max(action.time_ms, clock_ms - slack_ms) >= deadline_ms + lateness_ms:
            found.actions[offset] = Reason.EXPIRED
        elif max(action.time_ms, clock_ms - slack_ms) >= deadline_ms or key in ended:
            late[key].append(action.kind)
        else:
            if action.kind in BITS:
                labels[key][BITS[action.kind]] = 1
            if action.kind in rules.terminal_actions or labels[key] == [1, 1]:
                ended.add(key)
    for (name, item), bits in labels.items():
        is_out = any(bits) or is_kept(name, item, rules.negative_rate)
        found.examples[name, item, ExampleKind.LABELLED, tuple(bits)] += is_out
        for kind in dict.fromkeys(kind for kind in late[name, item] if kind in BITS and not bits[BITS[kind]]):
            kind_of_example = ExampleKind.RETRACTION if is_out else ExampleKind.LABELLED
            found.examples[name, item, kind_of_example, tuple(int(kind == other) for other in BITS)] += 1
            is_out = True
    found.examples = +found.examples
    return found


def clocks_of(times_ms: list[int], num_agreeing: int) -> Iterator[int]:
    """Yield the event time of a topic before each of its records."""
    clock_ms = NEVER_MS
    for end in range(len(times_ms)):
        newest_ms = sorted(times_ms[max(0, end - 8) : end], reverse=True)
        if len(newest_ms) >= num_agreeing:
            clock_ms = max(clock_ms, newest_ms[num_agreeing - 1])
        yield clock_ms


class Stream:
    """Requests whose impressions and actions are late, lost, repeated or from clocks that are behind, in the order of their arrival."""

    def __init__(self, world: World, rng: random.Random) -> None:
        arrivals: list[tuple[float, Impression | Action]] = []
        for index in range(40):
            at_s, name, items = 12.0 * index + rng.choice([0, 7]), f"r{index}", rng.sample([1, 2, 3], rng.randint(1, 3))
            impression = world.impression(name, at_s, items)
            if rng.random() < 0.95:
                arrivals += [(at_s + rng.choice(DELAYS_S), impression) for _ in range(rng.choice([1, 1, 1, 2]))]
            for _ in range(rng.choice([0, 1, 1, 2, 4])):
                after_s, is_behind_s = rng.choice([0, 2, 40, 95, 103, 130, 350, 420]), rng.choice([0, 0, 0, 0, 9, 10, 11, 30, 150])
                item = rng.choice([*items, items[0], 4])
                action = world.action(name, rng.choice(["click", "click", "like", "end"]), at_s + after_s - is_behind_s, item)
                arrivals += [(at_s + after_s + rng.choice([0, 0, 0, 4, 80, 130]), action) for _ in range(rng.choice([1, 1, 1, 2]))]
        arrivals.sort(key=lambda arrival: arrival[0])
        self.arrivals = arrivals
        self.impressions = [event for _, event in arrivals if isinstance(event, Impression)]
        self.actions = [event for _, event in arrivals if isinstance(event, Action)]

    def mixed(self, rng: random.Random) -> list[Impression | Action]:
        """Return the records in another order, in that of its topic within each: by arrival, by chance, or one topic first."""
        way, events = rng.randrange(4), [event for _, event in self.arrivals]
        if way == 0:
            return events
        if way == 1:
            sides = [Impression] * len(self.impressions) + [Action] * len(self.actions)
            rng.shuffle(sides)
            of_topic = {Impression: iter(self.impressions), Action: iter(self.actions)}
            return [next(of_topic[side]) for side in sides]
        return sorted(events, key=lambda event: isinstance(event, Action) == (way == 2))


def job_of(world: World, rng: random.Random) -> JobConfig:
    emit = rng.choice(["candidate", "request", "window"])
    job: JobConfig = world.job(
        window_s=WINDOW_S,
        allowed_lateness_s=LATE_S,
        max_out_of_orderness_s=OUT_OF_ORDER_S,
        emit=emit,
        terminal_actions=["end"] if emit == "candidate" and rng.random() < 0.5 else [],
        negative_rate=rng.choice([1.0, 0.5]),
        max_records=rng.choice([1, 7, 300]),
        agreeing_records=rng.choice([1, 2, 5]),
    )
    return job


def joined(joiner: Joiner, log: MemoryLog, job: JobConfig, chunks: list[list[Impression | Action]], clock: ManualClock) -> Account:
    """Return what `joiner` makes of the records, a chunk at a time; seconds that `clock` advances after a chunk are its first entry."""
    found, topics = Account(), Topics.of(job.log)

    def commit() -> None:
        found.take(joiner.results(256, []))
        joiner.commit()

    for pause_s, *events in chunks:
        for event in events:
            is_impression = isinstance(event, Impression)
            value = encode_impression(event) if is_impression else encode_action(event)
            log.append(topics.impressions if is_impression else topics.actions, [value], time_ms=event.time_ms)
        clock.advance(pause_s)
        joiner.step()
        commit()
    while joiner.step() != (0, False):
        commit()
    for _ in joiner.close_all():
        commit()
    commit()
    return found


def both_ways(world: World, job: JobConfig, chunks: list[Any]) -> Iterator[tuple[str, Account]]:
    """Yield what the core and the reference make of the records."""
    for name in ("core", "reference"):
        log, clock = world.log(job), ManualClock(world.now_ms + 86_400_000)
        position = Position(Progress([0, 0]), 0, tasks=["is_click", "is_like"])
        joiner = Core(job, log, clock, position, {}) if name == "core" else Reference(job, log, clock, position, MemoryKv())
        yield name, joined(joiner, log, job, chunks, clock)


def chunks_of(events: list[Impression | Action], rng: random.Random, pauses_s: list[float]) -> list[list[Any]]:
    found, at = [], 0
    while at < len(events):
        size = rng.choice([1, 2, 9, 40])
        found.append([rng.choice(pauses_s), *events[at : at + size]])
        at += size
    return found


def check_refusals(got: Account, expected: Account, actions: list[Action], seed: int) -> None:
    """Check that every refused record is counted, but for copies of one, and no other record is."""
    assert got.impressions - expected.copies == expected.impressions, seed
    assert got.actions.keys() <= expected.actions.keys(), seed

    def kinds(account: Account) -> set[tuple[str, int, str]]:
        return {(actions[offset].request_id, actions[offset].item_id, actions[offset].kind) for offset in account.actions}

    assert kinds(got) == kinds(expected), seed


def test_every_example_has_the_label_that_the_log_gives_in_any_order_of_reading(world: World) -> None:
    late = lost = 0
    for seed in range(60):
        rng = random.Random(seed)
        stream, job = Stream(world, rng), job_of(world, rng)
        expected = account_of(job, stream.impressions, stream.actions)
        for way, got in both_ways(world, job, chunks_of(stream.mixed(rng), rng, [0.0])):
            assert got.examples == expected.examples, (seed, way)
            check_refusals(got, expected, stream.actions, seed)
        late += len(expected.impressions)
        lost += sum(offset in expected.actions for offset in range(len(stream.actions)))
    assert late > 200 and lost > 500


def test_no_impression_is_learnt_without_the_actions_that_waited_for_it_when_topics_fall_silent(world: World) -> None:
    """Time goes on with the wall clock then, so the times of the records alone do not tell what is late."""
    num_kept = num_late = 0
    for seed in range(60):
        rng = random.Random(seed)
        stream, job = Stream(world, rng), job_of(world, rng)
        events = stream.mixed(rng)
        for way, got in both_ways(world, job, chunks_of(events, rng, [0.0, 1.0, 6.0, 40.0, 200.0])):
            num_late += len(got.impressions)
            kept = kept_actions(job, stream, events, got)
            num_kept += len(kept)
            for action in kept:
                learnt = [labels for name, item, _, labels in got.examples if (name, item) == (action.request_id, action.item_id)]
                assert any(labels[BITS[action.kind]] for labels in learnt), (seed, way, action)
    assert num_kept > 1000 and num_late > 500


def kept_actions(job: JobConfig, stream: Stream, events: list[Impression | Action], got: Account) -> list[Action]:
    """Return the actions that came before an impression that was taken, neither too early for it nor expired."""
    slack_ms, kept_ms = OUT_OF_ORDER_S * 1000, (WINDOW_S + LATE_S) * 1000
    clocks = clocks_of([action.time_ms for action in stream.actions], job.joiner.agreeing_records)
    waiting: dict[str, list[tuple[Action, int]]] = defaultdict(list)
    found: list[Action] = []
    taken: set[str] = set()
    num_impressions = 0
    for event in events:
        if isinstance(event, Action):
            waiting[event.request_id].append((event, next(clocks)))
            continue
        is_taken = num_impressions not in got.impressions and event.request_id not in taken
        num_impressions += 1
        if not is_taken:
            continue
        taken.add(event.request_id)
        for action, clock_ms in waiting[event.request_id]:
            is_early = max(action.time_ms, clock_ms) < event.time_ms - slack_ms
            is_expired = max(action.time_ms, clock_ms - slack_ms) >= event.time_ms + kept_ms
            if action.kind in BITS and action.item_id in event.item_ids and not is_early and not is_expired:
                found.append(action)
    return found
