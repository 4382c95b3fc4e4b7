"""The state machine of one request: impressions and actions to examples. No I/O and no clock.

Joiner, replay and backtest have the same rules in the core (monolith_py/core/joiner/rules.hpp), and a test holds the core to these.

The emissions depend on event times and on the order of the records within each topic, which the log has. They do not depend on the
interleaving of the topics, on how far the joiner has read ahead, nor on the moments at which the watermark moves. A record is judged by the
event time of its own topic before it (`clock_ms`, watermark.py), which has passed a time once it is `max_out_of_orderness_s` after it:

- The labels of a candidate are known once a terminal action arrived, or every task is positive. Those of all candidates are known after a
  terminal action of the request, and when the window closes: they are the actions before the deadline (event time).
- `joiner.emit` = candidate: an example is emitted as soon as its labels are known. request: all examples of a request are emitted together,
  as soon as the labels of the last one are known. window: when the window of the request closes, never sooner.
- An action is late after the deadline, once its topic has passed the deadline, or after the example was emitted. Under `retract` it emits
  a RETRACTION of the tasks that it turns positive. If the candidate's negative was sampled away, there is nothing to retract and it emits a
  LABELLED example. Under `drop` it is refused.
- An action `allowed_lateness_s` or more after the deadline is refused, and one that comes once its topic has passed that.
- An action may arrive before its impression. It waits for `window_s` plus `max_out_of_orderness_s` from its time on, or from that of its
  topic before it if that is later. It is refused if the topic of the impression had passed the end of the wait before the impression came.
  Copies of one that waits are left out; of more than MAX_EARLY of a request the others are refused.
- An impression whose topic had passed the end of its window before it is refused as a whole (`is_too_late`): actions on it may have been
  refused meanwhile, and its candidates would be learnt as negatives. Actions that are not earlier than it by more than
  `max_out_of_orderness_s`, in their own time and in that of their topic, still wait for every impression that is taken.
- A second impression of the same request, or a second action of the same kind on a candidate, changes nothing. The label of a regression is
  the greatest value before the example is emitted; a late value retracts a label of 0 alone.

The key of an example is (request id, item, kind); that of a retraction includes its tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monolith_py.config import JobConfig
from monolith_py.data.events import Action
from monolith_py.data.examples import ExampleKind
from monolith_py.data.label_bits import LabelBits
from monolith_streaming.joiner.negative_rates import NegativeRates
from monolith_streaming.joiner.request import Emission, LateAction, Outcome, Reason, Request, SeenAction, Status
from monolith_streaming.joiner.sampling import is_kept

# Most actions that wait for the impression of their request: a wrong request id shared by many must not cost more with each.
MAX_EARLY = 256
# Later than every deadline.
FOREVER_MS = 1 << 62


@dataclass(frozen=True)
class Rules:
    """Joining rules of a job, times in milliseconds."""

    tasks: tuple[str, ...]
    labels: LabelBits  # of the tasks
    bits: dict[str, int]  # kind of action -> places of the labels that it makes positive
    terminal: frozenset[str]  # kinds of action that end the wait of their candidate
    terminal_of_request: frozenset[str]  # and of all candidates
    emits_requests: bool  # all candidates of a request together
    waits_for_window: bool  # and none before its deadline
    window_ms: int
    allowed_lateness_ms: int
    max_out_of_orderness_ms: int
    retracts: bool
    negative_rates: NegativeRates

    @staticmethod
    def of(job: JobConfig) -> Rules:
        """Return the rules of `job`."""
        labels, bits = LabelBits.of(job), dict[str, int]()
        for place, action in enumerate(action for task in job.tasks for action in task.actions):
            bits[action] = bits.get(action, 0) | labels.mask(place)
        joiner = job.joiner
        return Rules(
            tasks=tuple(name for task in job.tasks for name in task.outputs),
            labels=labels,
            bits=bits,
            terminal=frozenset(joiner.terminal_actions),
            terminal_of_request=frozenset(joiner.request_terminal_actions),
            emits_requests=joiner.emit != "candidate",
            waits_for_window=joiner.emit == "window",
            window_ms=round(joiner.window_s * 1000),
            allowed_lateness_ms=round(joiner.allowed_lateness_s * 1000),
            max_out_of_orderness_ms=round(joiner.max_out_of_orderness_s * 1000),
            retracts=joiner.late == "retract",
            negative_rates=NegativeRates.of(joiner),
        )

    def bits_of(self, action: Action) -> int:
        """Return the bits of the labels that an action makes positive."""
        return self.labels.of_value(self.bits.get(action.kind, 0), action.value) if action.value > 0 else 0

    def matters(self, action: Action) -> bool:
        """Return whether an action of this kind can make a label or end a wait."""
        return action.kind in self.bits or action.kind in self.terminal or action.kind in self.terminal_of_request

    def is_too_late(self, time_ms: int, clock_ms: int, advanced_ms: int | None) -> bool:
        """Return whether an impression comes too late: after its topic, or the watermark where it moved alone, passed its deadline."""
        deadline_ms = time_ms + self.window_ms
        return self.has_passed(clock_ms, deadline_ms) or (advanced_ms is not None and advanced_ms >= deadline_ms)

    def forget_ms(self, time_ms: int) -> int:
        """Return the watermark at which a request with an impression of this event time is forgotten."""
        return time_ms + self.window_ms + self.allowed_lateness_ms

    def expire_ms(self, seen: SeenAction) -> int:
        """Return the watermark at which an action has waited too long for its impression."""
        return max(seen.action.time_ms, seen.clock_ms) + self.window_ms + self.max_out_of_orderness_ms

    def has_passed(self, clock_ms: int, time_ms: int) -> bool:
        """Return whether a topic with the event time `clock_ms` has passed `time_ms`."""
        return clock_ms - self.max_out_of_orderness_ms >= time_ms

    def is_late(self, request: Request, seen: SeenAction) -> bool:
        """Return whether an action comes after the window of its request."""
        return seen.action.time_ms >= request.deadline_ms or self.has_passed(seen.clock_ms, request.deadline_ms)


def see_impression(rules: Rules, request: Request, time_ms: int, item_ids: Sequence[int], outcome: Outcome) -> None:
    """Process the impression of `request`, then the actions that waited for it; ignore a second impression."""
    if request.has_arrived:
        return
    request.time_ms, request.deadline_ms = time_ms, time_ms + rules.window_ms
    request.item_ids = item_ids
    request.labels = [0] * len(item_ids)
    request.statuses = [int(Status.WAITING)] * len(item_ids)
    if len(item_ids) > 1 and len(set(item_ids)) < len(item_ids):
        seen_items: set[int] = set()
        for row, item_id in enumerate(item_ids):
            if item_id in seen_items:
                request.statuses[row] = Status.REPEATED
            seen_items.add(item_id)
    early, request.early = request.early, []
    for seen in early:
        see_action(rules, request, seen, outcome)


def see_action(rules: Rules, request: Request, seen: SeenAction, outcome: Outcome) -> None:
    """Process an action on a candidate of `request`, or on all of it; `rules.matters(action)` must hold."""
    action = seen.action
    if not request.has_arrived:
        _keep_early(rules, request, seen, outcome)
        return
    closes_request = action.kind in rules.terminal_of_request
    row = request.item_ids.index(action.item_id) if action.item_id in request.item_ids else None
    forget_ms = request.deadline_ms + rules.allowed_lateness_ms
    if rules.has_passed(request.clock_ms, rules.expire_ms(seen)):
        outcome.refused.append((seen, Reason.NO_IMPRESSION))  # it came too early, whichever topic was read first
    elif row is None and not closes_request:
        outcome.refused.append((seen, Reason.NO_CANDIDATE))
    elif action.time_ms >= forget_ms or rules.has_passed(seen.clock_ms, forget_ms):
        outcome.refused.append((seen, Reason.EXPIRED))
    else:
        ends = closes_request and not rules.is_late(request, seen)
        if row is not None:
            _see_on_candidate(rules, request, row, seen, outcome)
        if ends:
            _emit_all(rules, request, max(request.time_ms, action.time_ms), outcome)


def advance(rules: Rules, request: Request, watermark_ms: int, outcome: Outcome) -> None:
    """Advance event time to `watermark_ms`: close the window, or refuse actions that waited too long for their impression."""
    if request.has_arrived:
        if watermark_ms >= request.deadline_ms:
            _emit_all(rules, request, request.deadline_ms, outcome)
        return
    expired = [seen for seen in request.early if watermark_ms >= rules.expire_ms(seen)]
    outcome.refused += [(seen, Reason.NO_IMPRESSION) for seen in expired]
    request.early = [seen for seen in request.early if watermark_ms < rules.expire_ms(seen)]


def due_ms(rules: Rules, request: Request) -> int | None:
    """Return the watermark at which `advance` has an effect or the request can be forgotten; None for a request without any state."""
    if request.has_arrived:
        return request.deadline_ms if request.is_waiting else request.deadline_ms + rules.allowed_lateness_ms
    if not request.early:
        return None
    return min(map(rules.expire_ms, request.early))


def can_emit(rules: Rules, request: Request) -> bool:
    """Return whether `request` may still emit an example, which needs its features."""
    if request.is_waiting:
        return True
    return rules.retracts and any(labels != rules.labels.all for labels in request.labels)


def _keep_early(rules: Rules, request: Request, seen: SeenAction, outcome: Outcome) -> None:
    """Let an action wait for its impression, unless it is a copy of one that waits, or one too many."""
    action, is_full = seen.action, len(request.early) == MAX_EARLY
    for other in request.early:
        same = other.action.item_id == action.item_id and other.action.kind == action.kind
        # One that may wait longer is needed if the impression comes when the other has been refused.
        is_needed = not is_full and rules.expire_ms(seen) > rules.expire_ms(other)
        same &= (other.action.value > 0) == (action.value > 0) and rules.bits_of(other.action) == rules.bits_of(action)
        if same and other.action.time_ms <= action.time_ms and not is_needed:
            return
    if is_full:
        outcome.refused.append((seen, Reason.TOO_MANY))
    else:
        request.early.append(seen)


def _see_on_candidate(rules: Rules, request: Request, row: int, seen: SeenAction, outcome: Outcome) -> None:
    """Process an action on one candidate, which is not too late for it."""
    action, status = seen.action, request.statuses[row]
    bits = rules.bits_of(action)
    if status not in (Status.WAITING, Status.KNOWN):
        _see_late(rules, request, row, seen, outcome)
    elif rules.is_late(request, seen):
        # A second one changes nothing, so copies need no place.
        if bits and not any(entry.row == row and _is_same(rules, entry.seen.action, action) for entry in request.late):
            request.late.append(LateAction(row, seen))
    else:
        request.labels[row] = rules.labels.merged(request.labels[row], bits)
        is_known = action.kind in rules.terminal or request.labels[row] == rules.labels.all
        if status == Status.WAITING and is_known and not rules.waits_for_window:
            request.statuses[row] = Status.KNOWN
            known_ms = max(request.time_ms, action.time_ms)
            if not rules.emits_requests:
                _emit(rules, request, row, known_ms, outcome)
            elif Status.WAITING not in request.statuses:
                _emit_all(rules, request, known_ms, outcome)


def _is_same(rules: Rules, one: Action, other: Action) -> bool:
    return one.kind == other.kind and rules.bits_of(one) == rules.bits_of(other)


def _emit_all(rules: Rules, request: Request, known_ms: int, outcome: Outcome) -> None:
    """Emit the first example of each candidate that has none yet."""
    for row, status in enumerate(request.statuses):
        if status in (Status.WAITING, Status.KNOWN):
            _emit(rules, request, row, known_ms, outcome)


def _emit(rules: Rules, request: Request, row: int, known_ms: int, outcome: Outcome) -> None:
    """Emit the candidate's first example, then process its late actions."""
    labels = request.labels[row]
    sample_rate = 1.0 if labels else rules.negative_rates.rate(request.features, row)
    kept = is_kept(request.request_id, request.item_ids[row], sample_rate)
    request.statuses[row] = Status.EMITTED if kept else Status.SAMPLED_AWAY
    outcome.emissions.append(Emission(row, ExampleKind.LABELLED if kept else None, labels, known_ms, True, sample_rate))
    if request.late:
        late = [entry for entry in request.late if entry.row == row]
        request.late = [entry for entry in request.late if entry.row != row]
        for entry in late:
            _see_late(rules, request, row, entry.seen, outcome)


def _see_late(rules: Rules, request: Request, row: int, seen: SeenAction, outcome: Outcome) -> None:
    action = seen.action
    fresh = rules.labels.fresh(rules.bits_of(action), request.labels[row])
    if not fresh:
        return
    if not rules.retracts:
        outcome.refused.append((seen, Reason.LATE))
        return
    kind = ExampleKind.RETRACTION if request.statuses[row] == Status.EMITTED else ExampleKind.LABELLED
    # The first retraction of a sampled negative takes back its weight; the candidate then has the weight 1 of a positive.
    was_negative = request.labels[row] == 0
    sample_rate = rules.negative_rates.rate(request.features, row) if kind == ExampleKind.RETRACTION and was_negative else 1.0
    request.labels[row] |= fresh
    request.statuses[row] = Status.EMITTED
    known_ms = max(request.deadline_ms if action.time_ms >= request.deadline_ms else request.time_ms, action.time_ms)
    outcome.emissions.append(Emission(row, kind, fresh, known_ms, False, sample_rate))
