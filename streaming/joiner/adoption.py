"""Examples in the log as facts of a request's state: for a joiner whose state is older than the log.

A joiner that processes records again must not decide again: it may see them in another order, or with another watermark. What an earlier
run has emitted is in the log, so it is taken from there (`adopt`), and records of that time change labels alone (`withhold`).
"""

from __future__ import annotations

from collections.abc import Mapping

from monolith_py.data.examples import ExampleKind
from monolith_streaming.joiner.request import Emission, Outcome, Request, Status


def adopt(request: Request, facts: Mapping[int, int], closed_ms: int, outcome: Outcome) -> None:
    """Take over the examples of `request` in the log: `facts` has the positive tasks of each item that has one.

    A candidate without an example was sampled away if the window was closed by `closed_ms`. The emissions have no kind: they are counted,
    and not written.
    """
    for row, status in enumerate(request.statuses):
        if status == Status.REPEATED:
            continue
        is_open = status in (Status.WAITING, Status.KNOWN)
        labels = facts.get(request.item_ids[row])
        if labels is None:
            if is_open and request.deadline_ms <= closed_ms:
                request.statuses[row] = Status.SAMPLED_AWAY
                outcome.emissions.append(_counted(row, request.labels[row], request.deadline_ms, is_first=True))
            continue
        fresh = labels if is_open else labels & ~request.labels[row]
        if is_open or fresh:
            outcome.emissions.append(_counted(row, fresh, request.deadline_ms, is_first=is_open))
        request.statuses[row] = Status.EMITTED
        request.labels[row] |= labels
        request.late = [entry for entry in request.late if entry.row != row]


def withhold(request: Request, outcome: Outcome) -> None:
    """Take the examples out of `outcome`, whose action an earlier run has processed: the log has them, or they were not to be.

    A candidate that would be emitted now stays until its window closes.
    """
    kept = []
    for emission in outcome.emissions:
        if emission.kind is None:
            kept.append(emission)
        elif emission.kind == ExampleKind.LABELLED and emission.is_first:
            request.statuses[emission.row] = Status.KNOWN
    outcome.emissions = kept
    outcome.refused = []


def _counted(row: int, labels: int, known_ms: int, *, is_first: bool) -> Emission:
    return Emission(row, None, labels, known_ms, is_first)
