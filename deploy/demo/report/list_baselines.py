"""Baselines of the list-wise demo, outside the system: a running click rate of each item, and Vowpal Wabbit.

Letters: C candidates of all requests, in order.

Both learn a label when it is known to the system, too: a click when it comes, no click at the end of the joiner's window. A click after
the window is learnt twice, as no click and as a click. Neither waits for a batch, a joiner or a log.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from monolith_demo.dataset.list_data import age_bucket
from monolith_demo.dataset.listwise import ListStream, hour_of_day

FloatArray = npt.NDArray[np.float64]

# Pseudo-impressions at the mean rate, which smooth the rate of a new item.
_PRIOR_WEIGHT = 20.0
# Best of the settings tried on this stream, with users crossed with topics; the letters are the namespaces of `_lines`.
_VOWPAL = "--loss_function logistic --link logistic -b 22 --quiet -q ut --random_seed 1"


def predict_then_learn(
    stream: ListStream,
    window_ms: int,
    predict: Callable[[int], float],
    learn: Callable[[int, bool], None],
    note: Callable[[int], None] = lambda _: None,
) -> FloatArray:
    """Return `predict` of each candidate at its request, float64 (C,); before, `learn` gets each label known by then, in order of time."""
    times_ms = stream.times_ms[stream.requests]
    unclicked = np.flatnonzero(~stream.clicks | (stream.click_delays_ms > window_ms))
    rows = np.concatenate([unclicked, stream.clicked])
    known_ms = np.concatenate([times_ms[unclicked] + window_ms, stream.action_times_ms])
    labels = np.arange(len(rows)) >= len(unclicked)
    order = np.argsort(known_ms, kind="stable")
    ends = np.searchsorted(known_ms[order], stream.times_ms).tolist()  # labels known before each request
    events = list(zip(rows[order].tolist(), labels[order].tolist(), strict=True))
    predictions = np.empty(len(stream.items))
    done = 0
    for request, end in enumerate(ends):
        for row, label in events[done:end]:
            learn(row, label)
        done = end
        for row in range(stream.offsets[request], stream.offsets[request + 1]):
            predictions[row] = predict(row)
        if request % 1000 == 0:
            note(request)
    return predictions


def running_item_rate(stream: ListStream, window_ms: int) -> FloatArray:
    """Return the smoothed click rate of each candidate's item, of the labels known at its request: float64 (C,)."""
    items = stream.items.tolist()
    counts: dict[int, tuple[int, int]] = {}
    total = [0, 0]  # labels, clicks

    def predict(row: int) -> float:
        seen, clicked = counts.get(items[row], (0, 0))
        return (clicked + _PRIOR_WEIGHT * (total[1] + 1) / (total[0] + 2)) / (seen + _PRIOR_WEIGHT)

    def learn(row: int, label: bool) -> None:
        seen, clicked = counts.get(items[row], (0, 0))
        counts[items[row]] = (seen + 1, clicked + label)
        total[0] += 1
        total[1] += label

    return predict_then_learn(stream, window_ms, predict, learn)


def linear_list_learner(stream: ListStream, window_ms: int) -> FloatArray:
    """Return Vowpal Wabbit's prediction of each candidate, on the features of the job: float64 (C,)."""
    from vowpalwabbit import Workspace

    lines = _lines(stream)
    learner = Workspace(_VOWPAL)

    def learn(row: int, label: bool) -> None:
        learner.learn(f"{1 if label else -1} {lines[row]}")

    predictions = predict_then_learn(stream, window_ms, lambda row: float(learner.predict(lines[row])), learn)
    learner.finish()
    return predictions


def _lines(stream: ListStream) -> list[str]:
    """Return the features of each candidate in Vowpal Wabbit's text format."""
    users, hours = stream.users.tolist(), [hour_of_day(time_ms) for time_ms in stream.times_ms.tolist()]
    topics, publishers = (of[stream.items - 1].tolist() for of in (stream.item_topics, stream.item_publishers))
    columns = (stream.requests.tolist(), stream.items.tolist(), topics, publishers, age_bucket(stream.ages_h).tolist())
    return [
        f"|u {users[request]} |h {hours[request]} |i {item} |t {topic} |p {publisher} |a {age}"
        for request, item, topic, publisher, age in zip(*columns, strict=True)
    ]
