"""The examples depend only on event times, for any interleaving of topics and requests within the bounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from monolith_py.data.events import Action, Impression
from monolith_streaming.joiner.sampling import is_kept

World = Any
WINDOW_S, LATE_S, OUT_OF_ORDER_S = 100, 1000, 10
KINDS = ["click", "like", "end"]
BITS = {"click": 0, "like": 1}

request = st.fixed_dictionaries(
    {
        "at_s": st.integers(0, 2000),
        "items": st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True),
        "actions": st.lists(st.tuples(st.integers(0, 1300), st.sampled_from(KINDS), st.integers(1, 3)), max_size=5),
        "jitters_s": st.tuples(st.integers(0, OUT_OF_ORDER_S), st.integers(0, OUT_OF_ORDER_S)),
        "has_impression": st.integers(0, 9).map(bool),
        "is_repeated": st.booleans(),
    }
)


@settings(max_examples=150)
@given(
    requests=st.lists(request, min_size=1, max_size=8),
    closing=st.booleans(),
    negative_rate=st.sampled_from([1.0, 0.5]),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=10),
    max_records=st.sampled_from([1, 3, 1000]),
)
def test_any_interleaving_gives_the_examples_that_the_rules_say(
    world: World, requests: list[dict[str, Any]], closing: bool, negative_rate: float, sizes: list[int], max_records: int
) -> None:
    job = world.job(terminal_actions=["end"] if closing else [], negative_rate=negative_rate, max_records=max_records)
    log = world.log(job)
    loop = world.joiner(job, log)
    arrivals = []
    expected: Counter[tuple[str, int, int, tuple[int, int]]] = Counter()
    for index, one in enumerate(requests):
        impression, actions = events_of(world, f"r{index}", one)
        # Actions of one request keep their order: they share a partition. All else arrives up to OUT_OF_ORDER_S late.
        shown_s, acted_s = one["jitters_s"]
        arrivals += [(action.time_ms + acted_s * 1000, action) for action in actions * (1 + one["is_repeated"])]
        if one["has_impression"]:
            arrivals += [(impression.time_ms + shown_s * 1000, impression)] * (1 + one["is_repeated"])
            expected += examples_of(impression, actions, closing, negative_rate)
    arrivals.sort(key=lambda arrival: arrival[0])
    start = 0
    while start < len(arrivals):
        size = sizes[start % len(sizes)]
        world.append(job, log, *(event for _, event in arrivals[start : start + size]))
        loop.step()
        start += size
    ends = loop.ends()
    while not loop.has_reached(ends):
        loop.step()
    loop.close_all()
    got: Counter[tuple[str, int, int, tuple[int, ...]]] = Counter()
    for row, count in world.examples(job, log).items():
        got[row[:4]] += count
    assert got == expected


def events_of(world: World, request_id: str, one: dict[str, Any]) -> tuple[Impression, list[Action]]:
    impression = world.impression(request_id, one["at_s"], one["items"])
    actions = [
        world.action(request_id, kind, one["at_s"] + delay_s, item) for delay_s, kind, item in sorted(one["actions"], key=lambda a: a[0])
    ]
    return impression, actions


def examples_of(
    impression: Impression, actions: list[Action], closing: bool, negative_rate: float
) -> Counter[tuple[str, int, int, tuple[int, int]]]:
    """A second implementation of the rules."""
    found: Counter[tuple[str, int, int, tuple[int, int]]] = Counter()
    deadline_ms = impression.time_ms + WINDOW_S * 1000
    for item in impression.item_ids.tolist():
        own = [action for action in actions if action.item_id == item and action.time_ms < deadline_ms + LATE_S * 1000]
        in_time = [action for action in own if action.time_ms < deadline_ms]
        ends = [index for index, action in enumerate(in_time) if closing and action.kind == "end"]
        known = in_time[: ends[0]] if ends else in_time
        labels = [int(any(action.kind == kind for action in known)) for kind in BITS]
        is_out = any(labels) or is_kept(impression.request_id, item, negative_rate)
        if is_out:
            found[impression.request_id, item, 0, (labels[0], labels[1])] += 1
        late_kinds = dict.fromkeys(action.kind for action in own[len(known) :] if action.kind in BITS and not labels[BITS[action.kind]])
        for kind in late_kinds:
            one_hot = [int(kind == other) for other in BITS]
            found[impression.request_id, item, int(is_out), (one_hot[0], one_hot[1])] += 1
            is_out = True
    return found


def test_other_orders_of_a_request_s_own_actions_give_the_same_labels_in_the_end(world: World) -> None:
    def final(*kinds_and_times: tuple[str, float]) -> dict[int, int]:
        job = world.job(terminal_actions=["end"])
        log = world.log(job)
        world.append(job, log, world.impression("r"), *(world.action("r", kind, at_s) for kind, at_s in kinds_and_times))
        world.join(job, log)
        totals: Counter[int] = Counter()
        for _, _, _, labels in world.labels(job, log):
            totals.update(dict(enumerate(labels)))
        return dict(totals)

    assert final(("click", 1), ("end", 2), ("like", 3)) == final(("end", 2), ("like", 3), ("click", 1)) == {0: 1, 1: 1}
