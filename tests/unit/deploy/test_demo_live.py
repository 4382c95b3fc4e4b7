"""Live replay: no label is known early, no record is lost, and slow replicas slow it down."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import pytest

from monolith_demo.dataset.kuairand import Stream
from monolith_demo.dataset.listwise import ListStream, generate
from monolith_demo.driver.history import history_actions
from monolith_demo.driver.live import Mark, Replay
from monolith_py.clock import ManualClock
from monolith_py.errors import RankFailed
from monolith_py.io.codec import decode_action
from monolith_serving.client import RankResult

MakeStream = Callable[..., Stream]
DURATION_S = 4.0
FIRST = 50
Event = tuple[float, Any]  # seconds on the clock, event


class TickingClock(ManualClock):
    """Clock that calls its listeners at each move."""

    def __init__(self) -> None:
        super().__init__(1_700_000_000_000)
        self.listeners: list[Callable[[], None]] = []

    def advance(self, duration_s: float) -> None:
        super().advance(duration_s)
        for listen in self.listeners:
            listen()


class Asked(NamedTuple):
    due_s: float
    number: int
    request_id: str
    future: Future[RankResult]


class SlowRanker:
    """Replica that answers its n-th request after `delay_s(n)` seconds and refuses request `refuses`."""

    def __init__(self, clock: TickingClock, delay_s: Callable[[int], float], refuses: int | None = None) -> None:
        self._clock, self._delay_s, self._refuses = clock, delay_s, refuses
        self._waiting: list[Asked] = []
        self.requests: list[dict[str, Any]] = []
        self.asked: list[Event] = []
        self.answered: dict[str, float] = {}
        self.most_waiting = 0
        clock.listeners.append(self._answer)

    def rank_async(
        self,
        user_id: int,
        item_ids: Sequence[int],
        *,
        context: Mapping[str, Sequence[int]],
        request_id: str,
        time_ms: int,
        timeout_s: float,
    ) -> Future[RankResult]:
        now_s, number = self._clock.monotonic_s(), len(self.requests)
        self.requests.append({"user": user_id, "items": list(item_ids), "context": dict(context), "id": request_id, "time_ms": time_ms})
        self.asked.append((now_s, request_id))
        future: Future[RankResult] = Future()
        heapq.heappush(self._waiting, Asked(now_s + self._delay_s(number), number, request_id, future))
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        return future

    def _answer(self) -> None:
        while self._waiting and self._waiting[0].due_s <= self._clock.monotonic_s():
            _, number, request_id, future = heapq.heappop(self._waiting)
            if number == self._refuses:
                future.set_exception(RankFailed("UNAVAILABLE", "gone"))
            else:
                self.answered[request_id] = self._clock.monotonic_s()
                items = self.requests[number]["items"]
                scores = np.array([[number / 1000 + row / 10_000, 1 - number / 1000] for row in range(len(items))], np.float32)
                future.set_result(RankResult(request_id, scores, ("long_view", "click"), f"1.{number // 10}", 0))


class World:
    """Replay of a stream to replicas, with the records appended and the progress notes."""

    def __init__(self, stream: Stream | ListStream, *delays_s: Callable[[int], float], refuses: int | None = None) -> None:
        self.stream, self.clock = stream, TickingClock()
        self.rankers = [SlowRanker(self.clock, delay_s, refuses) for delay_s in delays_s]
        self.appended: list[Event] = []
        self.notes: list[Any] = []
        self.replay = Replay(stream, FIRST, self.rankers, 2, self._append, self.clock)
        self.began_s = self.clock.monotonic_s()

    def _append(self, records: list[Any]) -> None:
        self.appended += [(self.clock.monotonic_s(), decode_action(value)) for _, _, value in records]

    def run(self, check: Callable[[], None] = lambda: None, marks: Sequence[Mark] = ()) -> float:
        return self.replay.run(DURATION_S, self.notes.append, check, marks)

    def due_s(self, time_ms: int) -> float:
        """Return the clock time of an event time: impression k of n is due k / (n - 1) of the duration after the start."""
        shown = self.stream.times_ms[FIRST:].tolist()
        if time_ms >= shown[-1]:
            return self.began_s + DURATION_S
        after = next(index for index, shown_ms in enumerate(shown) if shown_ms > time_ms)
        part = (time_ms - shown[after - 1]) / (shown[after] - shown[after - 1])
        return self.began_s + (after - 1 + part) / (len(shown) - 1) * DURATION_S


def delays(seed: int, longest_s: float) -> Callable[[int], float]:
    values = np.random.default_rng(seed).uniform(0, longest_s, 10_000)
    return lambda number: float(values[number])


@pytest.mark.parametrize("seed", range(3))
def test_no_action_is_appended_before_both_replicas_have_answered_and_its_play_has_ended(make_stream: MakeStream, seed: int) -> None:
    world = World(make_stream(300, seed), delays(seed, 0.4), delays(seed + 10, 0.3))
    world.run()
    first_live = world.stream.times_ms[FIRST]
    held_by_play = held_by_answer = 0
    for at_s, action in world.appended:
        index = int(action.request_id.split("-")[1])
        assert at_s >= world.due_s(action.time_ms) - 1e-6
        if index < FIRST:
            assert action.time_ms >= first_live
            continue
        answered_s = max(ranker.answered[action.request_id] for ranker in world.rankers)
        assert at_s >= answered_s
        held_by_answer += answered_s > world.due_s(action.time_ms)
        held_by_play += answered_s < world.due_s(action.time_ms) - 0.1
    assert held_by_play > 20 and held_by_answer > 20  # both rules were tested


@pytest.mark.parametrize("seed", range(3))
def test_history_and_live_have_every_impression_and_every_action_exactly_once(make_stream: MakeStream, seed: int) -> None:
    stream = make_stream(300, seed)
    world = World(stream, delays(seed, 0.2), delays(seed + 10, 0.2))
    world.run()
    of_history = [action for index in history_actions(stream, FIRST) for action in stream.actions(index)]
    of_live = [action for _, action in world.appended]
    assert any(int(action.request_id.split("-")[1]) < FIRST for action in of_live)  # plays that ended after history
    assert Counter(of_history + of_live) == Counter(action for index in range(300) for action in stream.actions(index))
    for ranker in world.rankers:
        assert [request["id"] for request in ranker.requests] == [stream.request_id(index) for index in range(FIRST, 300)]


def test_actions_of_one_request_keep_their_order_so_that_its_end_does_not_close_it_without_a_label(
    make_stream: MakeStream,
) -> None:
    stream = make_stream(300)
    world = World(stream, delays(1, 0.2), delays(2, 0.2))
    world.run()
    kinds: dict[str, list[str]] = {}
    for _, action in world.appended:
        kinds.setdefault(action.request_id, []).append(action.kind)
    assert ["click", "long_view", "play_end"] in kinds.values()
    for request_id, of in kinds.items():
        assert of == [action.kind for action in stream.actions(int(request_id.split("-")[1]))]


def test_replicas_are_asked_what_was_asked_then(make_stream: MakeStream) -> None:
    stream = make_stream(120)
    world = World(stream, delays(1, 0.01), delays(2, 0.01))
    world.run()
    expected = [
        {
            "user": stream.users[index],
            "items": [stream.videos[index]],
            "context": {"tab": [stream.tabs[index]]},
            "id": stream.request_id(index),
            "time_ms": stream.times_ms[index],
        }
        for index in range(FIRST, 120)
    ]
    assert world.rankers[0].requests == world.rankers[1].requests == expected


def test_the_load_is_even_though_the_stream_is_not(make_stream: MakeStream) -> None:
    stream = make_stream(450)
    night = np.where(np.arange(450) < 200, 0, 3_600_000)  # an hour without impressions
    stream = type(stream)(**{**vars(stream), "times_ms": stream.times_ms + night})
    world = World(stream, delays(1, 0.01), delays(2, 0.01))
    assert world.run() == pytest.approx(DURATION_S, abs=0.1)
    seconds = Counter(int(at_s - world.began_s + 1e-6) for at_s, _ in world.rankers[0].asked)
    assert all(seconds[second] == pytest.approx(100, abs=5) for second in range(4))


def test_time_waits_for_slow_replicas_and_the_notes_say_how_far_behind_it_is(make_stream: MakeStream) -> None:
    world = World(make_stream(450), lambda _: 1.0, lambda _: 0.01)
    took_s = world.run()
    assert max(ranker.most_waiting for ranker in world.rankers) == 64
    assert took_s == pytest.approx(400 / 64, abs=1.5)  # 64 in flight, each a second long
    assert max(note.lag_s for note in world.notes) > 1.0
    assert [note.num_sent for note in world.notes] == sorted(note.num_sent for note in world.notes)
    assert all(0 <= note.num_sent - note.num_answered <= 64 for note in world.notes)
    assert (world.notes[-1].num_sent, world.notes[-1].num_answered, world.notes[-1].lag_s) == (400, 400, 0.0)


def test_answers_are_kept_in_the_order_of_the_impressions_whenever_they_come(make_stream: MakeStream) -> None:
    world = World(make_stream(150), delays(3, 0.5), lambda _: 0.05)
    world.run()
    arrival = sorted(world.rankers[0].answered, key=world.rankers[0].answered.__getitem__)
    assert arrival != sorted(arrival)
    for served, ranker in zip(world.replay.served, world.rankers, strict=True):
        np.testing.assert_allclose(served.scores, [[number / 1000, 1 - number / 1000] for number in range(100)], rtol=1e-6)
        assert served.versions == [f"1.{number // 10}" for number in range(100)]
        waits = [ranker.answered[request_id] - asked_s for asked_s, request_id in ranker.asked]
        np.testing.assert_allclose(served.latencies_s, waits)
    np.testing.assert_allclose(world.replay.served[1].latencies_s, 0.05, atol=0.0051)


def test_a_replica_that_refuses_ends_the_replay_and_its_impression_gets_no_action(make_stream: MakeStream) -> None:
    world = World(make_stream(300), delays(1, 0.05), delays(2, 0.05), refuses=40)
    with pytest.raises(RankFailed, match="UNAVAILABLE: gone"):
        world.run()
    assert world.stream.request_id(FIRST + 40) not in {action.request_id for _, action in world.appended}
    assert len(world.rankers[0].requests) < 80


def test_a_process_that_has_died_ends_the_replay_within_a_second(make_stream: MakeStream) -> None:
    class Died(Exception):
        pass

    def check() -> None:
        if world.clock.monotonic_s() - world.began_s > 1.5:
            raise Died

    world = World(make_stream(300), delays(1, 0.05), delays(2, 0.05))
    with pytest.raises(Died):
        world.run(check)
    assert world.clock.monotonic_s() - world.began_s < 2.6


def test_scores_of_lists_are_kept_candidate_by_candidate() -> None:
    stream = generate(0, num_requests=250, days=0.1)
    world = World(stream, delays(3, 0.3), delays(4, 0.3), delays(5, 0.01))
    world.run()
    assert len(world.replay.served) == 3
    begin = int(stream.offsets[FIRST])
    number = stream.requests[begin:] - FIRST
    for served, ranker in zip(world.replay.served, world.rankers, strict=True):
        assert [request["items"] for request in ranker.requests] == [stream.candidates(index) for index in range(FIRST, 250)]
        np.testing.assert_allclose(served.scores[:, 0], number / 1000 + stream.positions[begin:] / 10_000, rtol=1e-5)
        assert len(served.versions) == len(served.latencies_s) == 200


def test_every_click_of_a_list_comes_once_at_its_time_and_after_all_replicas_have_answered() -> None:
    stream = generate(1, num_requests=400, days=0.02)
    world = World(stream, delays(3, 0.2), delays(4, 0.6), delays(5, 0.05))
    world.run()
    for at_s, action in world.appended:
        assert at_s >= world.due_s(action.time_ms) - 1e-6
        if action.request_id in world.rankers[0].answered:
            assert at_s >= max(ranker.answered[action.request_id] for ranker in world.rankers)
    before = [action for moment in history_actions(stream, FIRST) for action in stream.actions(moment)]
    live = [action for _, action in world.appended]
    assert Counter(before + live) == Counter(action for moment in range(len(stream.clicked)) for action in stream.actions(moment))
    assert max(Counter(action.request_id for action in live).values()) >= 3  # several clicks of one request


def test_the_work_of_a_mark_is_done_between_the_requests_before_and_after_it(make_stream: MakeStream) -> None:
    stream = make_stream(250)
    world = World(stream, delays(1, 0.01), delays(2, 0.01))
    seen: list[tuple[int, int]] = []
    times_ms = [int(stream.times_ms[index]) for index in (120, 60, 200)] + [int(stream.times_ms[90]) + 1]
    marks = [Mark(time_ms, lambda time_ms=time_ms: seen.append((time_ms, len(world.rankers[0].requests)))) for time_ms in times_ms]
    world.run(marks=marks)
    expected = [(time_ms, int((stream.times_ms[FIRST:] < time_ms).sum())) for time_ms in sorted(times_ms)]
    assert seen == expected
