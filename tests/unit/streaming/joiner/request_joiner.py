"""The waiting requests of one partition, their due times, and the changes of a step. Reads Kv, writes nothing.

A step's changes stay in memory until the loop writes them in one transaction (`changes`, then `clear_step`). Between steps only the due
times are in memory: a request is loaded from Kv when an action arrives or it is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from monolith_py.errors import KvError
from monolith_py.io import Kv
from monolith_py.observe import metrics
from monolith_streaming.joiner.request import Emission, Outcome, Reason, Request, SeenAction, Status
from monolith_streaming.joiner.rules import FOREVER_MS, Rules, advance, can_emit, due_ms, see_action, see_impression
from monolith_streaming.joiner.waiting import WaitingRequest
from tests.unit.streaming.joiner.intake import SeenImpression
from tests.unit.streaming.joiner.waiting_form import decode_waiting, encode_waiting

# Most requests that one step closes, and those closed between two looks at the other bounds of a step.
MAX_CLOSED, _CHUNK = 4096, 256
_CLOSE_CHUNK = 16  # of `close_all`, which looks only between chunks
# A step that emits this much closes no further request: its records are in memory at once.
_MAX_EMITTED, _MAX_EMITTED_BYTES = 1 << 16, 32 << 20


class RequestJoiner:
    """Joins the requests of one partition; their keys in `kv` begin with `prefix`."""

    def __init__(self, rules: Rules, kv: Kv, prefix: str) -> None:
        self._rules, self._kv, self._prefix = rules, kv, prefix
        self._due_ms: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # (due, request id); an entry that differs from _due_ms is stale
        self._step: dict[str, WaitingRequest | None] = {}  # changed in this step; None: forgotten
        self.num_waiting = 0  # candidates
        self.advanced_ms: int | None = None  # watermark up to which every due request was processed
        self.emitted: list[tuple[WaitingRequest, Emission]] = []
        self._emitted_bytes = 0  # about, of the step's examples
        self.refused: list[tuple[SeenAction, Reason]] = []
        self.too_late: list[SeenImpression] = []

    @property
    def num_requests(self) -> int:
        """Return the number of requests remembered."""
        return len(self._due_ms)

    def restore(self, request: Request) -> None:
        """Remember a request that Kv has."""
        if request.request_id not in self._due_ms:
            self.num_waiting += request.num_waiting
            self._schedule(request)

    @property
    def has_changes(self) -> bool:
        """Return whether this step changed anything."""
        return bool(self._step or self.too_late)

    def load(self, request_ids: Iterable[str], watermark_ms: int | None) -> None:
        """Load these requests and those that are due at `watermark_ms` into the step, in one read of Kv."""
        due = [] if watermark_ms is None else self._pop_due(watermark_ms, _CHUNK)
        for request_id in due:
            heapq.heappush(self._heap, (self._due_ms[request_id], request_id))
        self._load([*request_ids, *due])

    def see_impression(self, seen: SeenImpression, watermark_ms: int | None) -> Sequence[SeenAction]:
        """Process an impression; return the actions that waited for it.

        One that comes too late is refused, unless its request has an impression.
        """
        impression = seen.impression
        self.reach(watermark_ms)
        self._load([impression.request_id])
        waiting = self._step.get(impression.request_id)
        has_arrived = waiting is not None and waiting.request.has_arrived
        if not has_arrived and self._rules.is_too_late(impression.time_ms, seen.clock_ms, self.advanced_ms):
            self.too_late.append(seen)
            return ()
        waiting = self._waiting(impression.request_id)
        if has_arrived:
            metrics.IMPRESSIONS_REPEATED.inc()
            return ()
        early = waiting.request.early
        waiting.offset, waiting.impression, waiting.request.features = seen.offset, impression, impression
        waiting.request.clock_ms = seen.clock_ms
        outcome = Outcome()
        see_impression(self._rules, waiting.request, impression.time_ms, impression.item_ids, outcome)
        self._count_arrived(waiting.request)
        self._take(waiting, outcome)
        return early

    def see_action(self, seen: SeenAction) -> None:
        """Process an action."""
        self._load([seen.action.request_id])
        waiting = self._waiting(seen.action.request_id)
        outcome = Outcome()
        see_action(self._rules, waiting.request, seen, outcome)
        self._take(waiting, outcome)

    def reach(self, watermark_ms: int | None) -> None:
        """Note that event time has reached `watermark_ms`, unless a request is due at it."""
        if watermark_ms is not None and not self.is_due(watermark_ms):
            self.advanced_ms = watermark_ms if self.advanced_ms is None else max(self.advanced_ms, watermark_ms)

    def is_due(self, watermark_ms: int) -> bool:
        """Return whether `advance` to `watermark_ms` would change a request."""
        return bool(self._heap) and self._heap[0][0] <= watermark_ms

    def advance(self, watermark_ms: int) -> bool:
        """Advance event time to `watermark_ms`; return whether more requests are due at it than a step may close."""
        for _ in range(0, MAX_CLOSED, _CHUNK):
            if self._is_full():
                break
            due = self._pop_due(watermark_ms, _CHUNK)
            self._load(due)
            for index, request_id in enumerate(due):
                if self._is_full():
                    for left in due[index:]:
                        heapq.heappush(self._heap, (self._due_ms[left], left))
                    break
                waiting = self._step[request_id]
                assert waiting is not None, request_id
                self._advance(waiting, watermark_ms)
                if self._due_ms.get(request_id, FOREVER_MS) <= watermark_ms:
                    self._forget(request_id)
        self.reach(watermark_ms)
        return self.is_due(watermark_ms)

    def close_all(self) -> Iterator[None]:
        """Close every open window and refuse every early action, as if their time had passed; yield after each step.

        Requests stay remembered for late actions, so a later run of the joiner can continue.
        """
        assert not self._step, "a step is open"
        by_due = sorted(self._due_ms, key=lambda request_id: (self._due_ms[request_id], request_id))
        for start in range(0, len(by_due), _CLOSE_CHUNK):
            chunk = by_due[start : start + _CLOSE_CHUNK]
            self._load(chunk)
            for request_id in chunk:
                waiting = self._step[request_id]
                assert waiting is not None, request_id
                if waiting.request.has_arrived and not waiting.request.is_waiting:
                    del self._step[request_id]  # closed before: nothing to write
                else:
                    self._advance(waiting, FOREVER_MS)
            if self._is_full() or len(self._step) >= MAX_CLOSED:
                yield
        yield

    def changes(self) -> tuple[dict[str, bytes], list[str]]:
        """Return the puts and deletes of this step in Kv."""
        puts, deletes = {}, []
        for request_id, waiting in self._step.items():
            if waiting is None:
                deletes.append(self._prefix + request_id)
            else:
                puts[self._prefix + request_id] = encode_waiting(waiting, can_emit(self._rules, waiting.request))
        return puts, deletes

    def clear_step(self) -> None:
        """Drop the step's changes, now that Kv has them."""
        self._step.clear()
        self.emitted, self.refused, self.too_late = [], [], []
        self._emitted_bytes = 0

    def _is_full(self) -> bool:
        """Return whether this step must not close another request."""
        return len(self.emitted) >= _MAX_EMITTED or self._emitted_bytes >= _MAX_EMITTED_BYTES

    def _pop_due(self, watermark_ms: int, most: int) -> list[str]:
        """Take the requests that are due at `watermark_ms` off the heap, at most `most`, earliest first."""
        due: dict[str, None] = {}  # a due time that changes and changes back is on the heap twice
        while self.is_due(watermark_ms) and len(due) < most:
            due_at_ms, request_id = heapq.heappop(self._heap)
            if self._due_ms.get(request_id) == due_at_ms:
                due[request_id] = None
        return list(due)

    def _load(self, request_ids: Iterable[str]) -> None:
        """Load these requests from Kv into the step, except new ones."""
        missing = [request_id for request_id in dict.fromkeys(request_ids) if request_id in self._due_ms and request_id not in self._step]
        if not missing:
            return
        values = self._kv.get_many([self._prefix + request_id for request_id in missing])
        for request_id, value in zip(missing, values, strict=True):
            if value is None:
                raise KvError(f"waiting request {self._prefix + request_id!r} must be in the store, got nothing")
            self._step[request_id] = decode_waiting(request_id, value)

    def _waiting(self, request_id: str) -> WaitingRequest:
        """Return the request from the step, or a new one."""
        waiting = self._step.get(request_id)
        if waiting is None:
            waiting = self._step[request_id] = WaitingRequest(Request(request_id))
        return waiting

    def _advance(self, waiting: WaitingRequest, watermark_ms: int) -> None:
        outcome = Outcome()
        advance(self._rules, waiting.request, watermark_ms, outcome)
        self._take(waiting, outcome)

    def _count_arrived(self, request: Request) -> None:
        self.num_waiting += len(request.statuses) - request.statuses.count(Status.REPEATED)

    def _take(self, waiting: WaitingRequest, outcome: Outcome) -> None:
        """Keep the result of a request's step and schedule its next due time."""
        for emission in outcome.emissions:
            self.emitted.append((waiting, emission))
            self.num_waiting -= emission.is_first
        if outcome.emissions and waiting.impression is not None:
            self._emitted_bytes += len(waiting.impression.value) + waiting.impression.shared_bytes * len(outcome.emissions)
        self.refused += outcome.refused
        self._schedule(waiting.request)

    def _schedule(self, request: Request) -> None:
        request_id, due = request.request_id, due_ms(self._rules, request)
        if due is None:
            self._forget(request_id)
        elif self._due_ms.get(request_id) != due:
            self._due_ms[request_id] = due
            heapq.heappush(self._heap, (due, request_id))

    def _forget(self, request_id: str) -> None:
        self._due_ms.pop(request_id, None)
        self._step[request_id] = None
