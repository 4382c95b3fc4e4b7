"""Replay of the live phase: requests are scored over gRPC in event-time order, and the actions on them are appended afterwards.

Event time is compressed to an even load, the same number of requests in each second of the wall clock: nights pass faster than
evenings. The replay slows down where the replicas cannot keep up.

No label is known early: the actions on a request are appended only after every replica has scored it and their time has come in
compressed time.

Letters: n requests of the live phase, C candidates of these, T tasks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.stream import RequestStream
from monolith_demo.driver.history import Timed, action_records, history_actions
from monolith_py.clock import Clock

# Requests in flight at one time.
_MAX_IN_FLIGHT = 64
_TIMEOUT_S = 10.0  # a replica takes milliseconds
_TICK_S = 0.005
_SHORTEST_SLEEP_S = 0.0005
_ACTIONS_S = 0.02  # interval of appends: each waits for the disk
_NOTE_S = 1.0


class Ranker(Protocol):
    """The part of `monolith_serving.client.RankClient` that the replay calls."""

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
        """Send a request and return the future of its scores."""
        ...


@dataclass
class Served:
    """Answers of one replica."""

    scores: npt.NDArray[np.float32]  # (C, T)
    latencies_s: npt.NDArray[np.float64]  # (n,) measured by the client
    versions: list[str]  # (n,)


@dataclass(frozen=True)
class Progress:
    """Progress of the replay."""

    num_sent: int
    num_answered: int  # the first so many are answered
    lag_s: float  # behind the timetable


@dataclass(frozen=True)
class Mark:
    """Work of the driver at a moment of event time; the replay stands still meanwhile."""

    time_ms: int
    work: Callable[[], None]


class _Kind(IntEnum):
    """Kinds of entries of the timetable, in their order at equal times."""

    MARK = 0
    REQUEST = 1
    ACTIONS = 2


class Replay:
    """Replay of the requests of `stream` from index `first` on; `append` gets the records of actions, on the thread that calls `run`."""

    def __init__(
        self,
        stream: RequestStream,
        first: int,
        rankers: Sequence[Ranker],
        num_tasks: int,
        append: Callable[[list[Timed]], None],
        clock: Clock,
    ) -> None:
        self._stream, self._first, self._rankers, self._append, self._clock = stream, first, rankers, append, clock
        count = len(stream) - first
        self._rows = stream.offsets[first:] - stream.offsets[first]  # (n + 1,)
        self._action_requests = stream.action_requests
        num_candidates = int(self._rows[-1])
        self.served = [Served(np.zeros((num_candidates, num_tasks), np.float32), np.zeros(count), [""] * count) for _ in rankers]
        self._unanswered = np.full(count, len(rankers))
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._sent = 0
        self._answered = 0
        self._next_actions_s = self._next_note_s = 0.0
        self._waiting: deque[int] = deque()  # moments of actions that have come, on requests whose answers may be missing

    def run(self, duration_s: float, note: Callable[[Progress], None], check: Callable[[], None], marks: Sequence[Mark] = ()) -> float:
        """Replay within about `duration_s` and return the seconds taken; `note` and `check` are called about once a second.

        Raises:
            RankFailed: a replica refused or did not answer a request.
        """
        began_s = self._clock.monotonic_s()
        for due_s, index, kind in self._timetable(duration_s, marks):
            while True:
                behind_s = self._clock.monotonic_s() - began_s - due_s
                self._turn(behind_s, note, check)
                if behind_s >= 0 and not (kind == _Kind.REQUEST and self._is_full()):
                    break
                self._clock.sleep(min(_TICK_S, max(_SHORTEST_SLEEP_S, -behind_s)))
            if kind == _Kind.REQUEST:
                self._send(index)
            elif kind == _Kind.ACTIONS:
                self._waiting.append(index)
            else:
                marks[index].work()
        while self._waiting or self._count_answered() < len(self._unanswered):
            self._turn(0.0, note, check)
            self._clock.sleep(_TICK_S)
        self._raise_failure()
        note(Progress(self._sent, self._answered, 0.0))
        return self._clock.monotonic_s() - began_s

    def _turn(self, behind_s: float, note: Callable[[Progress], None], check: Callable[[], None]) -> None:
        """Append actions every 20 ms; check and note every second."""
        self._raise_failure()
        now_s = self._clock.monotonic_s()
        if now_s >= self._next_actions_s:
            self._next_actions_s = now_s + _ACTIONS_S
            self._send_actions()
        if now_s >= self._next_note_s:
            self._next_note_s = now_s + _NOTE_S
            check()
            note(Progress(self._sent, self._count_answered(), max(0.0, behind_s)))

    def _timetable(self, duration_s: float, marks: Sequence[Mark]) -> Iterator[tuple[float, int, int]]:
        """Yield (seconds from the start, index, kind) of each request, moment of actions and mark, in order of event time."""
        stream, first = self._stream, self._first
        shown_ms = stream.times_ms[first:]
        acted = np.setdiff1d(np.flatnonzero(stream.num_actions > 0), history_actions(stream, first))
        marks_ms = np.array([mark.time_ms for mark in marks], np.int64)
        times_ms = np.concatenate([shown_ms, stream.action_times_ms[acted], marks_ms])
        indices = np.concatenate([np.arange(first, len(stream)), acted, np.arange(len(marks))])
        kinds = np.repeat([_Kind.REQUEST, _Kind.ACTIONS, _Kind.MARK], [len(shown_ms), len(acted), len(marks)])
        due_s = np.interp(times_ms, shown_ms, np.linspace(0.0, duration_s, len(shown_ms)))
        order = np.lexsort((kinds, times_ms))
        yield from zip(due_s[order].tolist(), indices[order].tolist(), kinds[order].tolist(), strict=True)

    def _send(self, index: int) -> None:
        stream, row = self._stream, index - self._first
        self._sent += 1
        for replica, ranker in enumerate(self._rankers):
            began_s = self._clock.monotonic_s()
            future = ranker.rank_async(
                int(stream.users[index]),
                stream.candidates(index),
                context=stream.context(index),
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
        served.scores[self._rows[row] : self._rows[row + 1]] = result.scores
        served.versions[row] = result.model_version
        with self._lock:
            self._unanswered[row] -= 1

    def _send_actions(self) -> None:
        """Append the waiting actions on requests that every replica has scored."""
        records: list[Timed] = []
        for _ in range(len(self._waiting)):
            moment = self._waiting.popleft()
            request = self._action_requests[moment]
            if request >= self._first and self._unanswered[request - self._first]:
                self._waiting.append(moment)
            else:
                records += action_records(self._stream, moment)
        if records:
            # The sort is stable: a `play_end` before a label of its request would close the example without that label.
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
