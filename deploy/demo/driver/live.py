"""The live phase: impressions are scored over gRPC in event-time order, and what the users did follows when its time has come.

Time is compressed so that the load is even: the same number of impressions in each second of the wall clock, so nights pass faster than
evenings. Where the replicas cannot keep up, time waits for them.

Nothing is known before it may be: an impression's actions are appended no earlier than both replicas have scored it and the end of its
play has come in the compressed time.

Letters: n impressions of the live phase, T tasks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.kuairand import Stream
from monolith_demo.driver.history import Timed, action_records, history_actions
from monolith_py.clock import Clock

# Impressions that may be on their way at one time.
_MAX_IN_FLIGHT = 64
_TIMEOUT_S = 10.0  # far above what a replica takes: a request that needs it has failed
_TICK_S = 0.005
_SHORTEST_SLEEP_S = 0.0005
_ACTIONS_S = 0.02  # actions gather this long: an append waits for the disk
_NOTE_S = 1.0


class Ranker(Protocol):
    """What `monolith_serving.client.RankClient` is to the replay."""

    def rank_async(
        self,
        user_id: int,
        item_ids: Sequence[int],
        *,
        context: Mapping[str, Sequence[int]],
        request_id: str,
        time_ms: int,
        timeout_s: float,
    ) -> Future[Any]:
        """Return the future scores of the items."""
        ...


@dataclass
class Served:
    """What one replica answered."""

    scores: npt.NDArray[np.float32]  # (n, T)
    latencies_s: npt.NDArray[np.float64]  # (n,) as the client sees them
    versions: list[str]  # (n,)


@dataclass(frozen=True)
class Progress:
    """How far the replay is."""

    num_sent: int
    num_answered: int  # all before this one are answered
    lag_s: float  # behind the timetable


class Replay:
    """Replays the impressions of `stream` from `first` on to `rankers`; `append` takes the records of actions, on the calling thread."""

    def __init__(
        self, stream: Stream, first: int, rankers: Sequence[Ranker], num_tasks: int, append: Callable[[list[Timed]], None], clock: Clock
    ) -> None:
        self._stream, self._first, self._rankers, self._append, self._clock = stream, first, rankers, append, clock
        count = len(stream) - first
        self.served = [Served(np.zeros((count, num_tasks), np.float32), np.zeros(count), [""] * count) for _ in rankers]
        self._unanswered = np.full(count, len(rankers))
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._sent = 0
        self._answered = 0
        self._next_actions_s = self._next_note_s = 0.0
        self._waiting: deque[int] = deque()  # impressions whose play has ended; their actions wait for the answers

    def run(self, duration_s: float, note: Callable[[Progress], None], check: Callable[[], None]) -> float:
        """Replay within about `duration_s` and return the seconds it took; `note` and `check` are called about once a second.

        Raises:
            RankFailed: a replica refused a request or did not answer it.
        """
        began_s = self._clock.monotonic_s()
        for due_s, index, is_impression in self._timetable(duration_s):
            while True:
                behind_s = self._clock.monotonic_s() - began_s - due_s
                self._turn(behind_s, note, check)
                if behind_s >= 0 and not (is_impression and self._is_full()):
                    break
                self._clock.sleep(min(_TICK_S, max(_SHORTEST_SLEEP_S, -behind_s)))
            if is_impression:
                self._send(index)
            else:
                self._waiting.append(index)
        while self._waiting or self._count_answered() < len(self._unanswered):
            self._turn(0.0, note, check)
            self._clock.sleep(_TICK_S)
        self._raise_failure()
        note(Progress(self._sent, self._answered, 0.0))
        return self._clock.monotonic_s() - began_s

    def _turn(self, behind_s: float, note: Callable[[Progress], None], check: Callable[[], None]) -> None:
        """Do what is to be done every few milliseconds and every second."""
        self._raise_failure()
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_actions_s:
            self._next_actions_s = now_s + _ACTIONS_S
            self._send_actions()
        if now_s >= self._next_note_s:
            self._next_note_s = now_s + _NOTE_S
            check()
            note(Progress(self._sent, self._count_answered(), max(0.0, behind_s)))

    def _timetable(self, duration_s: float) -> Iterator[tuple[float, int, bool]]:
        """Yield (seconds from the start, impression, whether it is shown; else its play ends), in order of event time."""
        stream, first = self._stream, self._first
        shown_ms = stream.times_ms[first:]
        count = len(shown_ms)
        done_before = history_actions(stream, first)
        ends = np.setdiff1d(np.flatnonzero(stream.num_actions > 0), done_before)
        times_ms = np.concatenate([shown_ms, stream.action_times_ms[ends]])
        indices = np.concatenate([np.arange(first, len(stream)), ends])
        is_impression = np.arange(len(indices)) < count
        due_s = np.interp(times_ms, shown_ms, np.linspace(0.0, duration_s, count))
        # A play of no length ends after its impression is shown.
        order = np.lexsort((~is_impression, times_ms))
        yield from zip(due_s[order].tolist(), indices[order].tolist(), is_impression[order].tolist(), strict=True)

    def _send(self, index: int) -> None:
        stream, row = self._stream, index - self._first
        self._sent += 1
        for replica, ranker in enumerate(self._rankers):
            began_s = self._clock.monotonic_s()
            future = ranker.rank_async(
                int(stream.users[index]),
                [int(stream.videos[index])],
                context={"tab": [int(stream.tabs[index])]},
                request_id=stream.request_id(index),
                time_ms=int(stream.times_ms[index]),
                timeout_s=_TIMEOUT_S,
            )
            future.add_done_callback(partial(self._settle, replica=replica, row=row, began_s=began_s))

    def _settle(self, future: Future[Any], replica: int, row: int, began_s: float) -> None:
        error = future.exception()
        if error is not None:
            self._failure = self._failure or error
            return
        result, served = future.result(), self.served[replica]
        served.latencies_s[row] = self._clock.monotonic_s() - began_s
        served.scores[row] = result.scores[0]
        served.versions[row] = result.model_version
        with self._lock:
            self._unanswered[row] -= 1

    def _send_actions(self) -> None:
        """Append the actions of the impressions whose play has ended and that both replicas have scored; the others go on waiting."""
        records: list[Timed] = []
        for _ in range(len(self._waiting)):
            index = self._waiting.popleft()
            if index >= self._first and self._unanswered[index - self._first]:
                self._waiting.append(index)
            else:
                records += action_records(self._stream, index)
        if records:
            # Records of one request keep their order: a `play_end` before a label would close the example without it.
            self._append(sorted(records, key=itemgetter(0)))

    def _count_answered(self) -> int:
        while self._answered < len(self._unanswered) and self._unanswered[self._answered] == 0:
            self._answered += 1
        return self._answered

    def _is_full(self) -> bool:
        return self._sent - self._count_answered() >= _MAX_IN_FLIGHT

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
