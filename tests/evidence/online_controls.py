"""Controls without our model: a constant, the popularity of an item, and an online linear learner.

All predict at the request and learn a label when it becomes known, with the delays of the stream. Letters: n candidates of all requests,
m candidates that are scored.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from online_streams import OnlineStream, known_counts

from monolith_py.data.columns import FloatArray, SparseColumn

# Examples at the mean rate, which smooth the rate of a rare item.
_PRIOR_WEIGHT = 20.0
_LINE = "--loss_function logistic --link logistic -b 22 --quiet --random_seed 1"
# Namespaces of Vowpal Wabbit by stream: the letter of each feature; a feature without one is in "m".
NAMESPACES = {
    "kuairand": {"user_id": "u", "video_id": "v", "tab": "t", "author_id": "a", "duration": "d", "tag": "g"},
    "mind": {"user_id": "u", "item_id": "i", "hour": "h", "first_day": "f", "age": "a"},
    "generated": {"user_id": "u", "item_id": "i", "hour": "h", "topic": "t", "publisher": "p", "age": "a"},
    "obd": {"user_id": "u", "item_id": "i", "hour": "h", "position": "o", "affinity": "y"},
}
# Settings that are tried; the report has the best of each stream, which favours Vowpal Wabbit.
SETTINGS = {
    "kuairand": ("-q ut -q vt -q ud -q ug -q td -q tg",),
    "mind": ("", "-q ia -q ih", "-l 0.1 -q ia -q ih"),
    "obd": ("", "-l 0.1", "-q im -q io"),
    "generated": ("", "-q ut -q ia", "-l 1 -q ut -q ia", "-q ut -q ia -q th"),
}


def popularity(stream: OnlineStream) -> FloatArray:
    """Return the smoothed rate of each scored candidate's item among the examples known at its request, first task: float32 (m,)."""
    first = next(iter(stream.labels.values()))[:, None]
    asked_ms = stream.times_ms[stream.request_of]
    own = known_counts(stream.items, first, asked_ms, stream.known_ms)
    all_of_them = known_counts(np.zeros(len(stream.items), np.int64), first, asked_ms, stream.known_ms)
    prior = (all_of_them[:, 1] + 1) / (all_of_them[:, 0] + 2)
    rates = (own[:, 1] + _PRIOR_WEIGHT * prior) / (own[:, 0] + _PRIOR_WEIGHT)
    return rates[stream.starts[stream.live_from] :].astype(np.float32)


def constant(stream: OnlineStream) -> FloatArray:
    """Return the rate of the history, first task, for each scored candidate: float32 (m,)."""
    start = int(stream.starts[stream.live_from])
    first = next(iter(stream.labels.values()))
    return np.full(len(stream.items) - start, first[:start].mean(), np.float32)


def vowpal(stream: OnlineStream, setting: str) -> FloatArray:
    """Return Vowpal Wabbit's predictions of the first task at the requests that are scored: float32 (m,)."""
    from vowpalwabbit import Workspace

    labels = next(iter(stream.labels.values()))
    texts = _texts(stream)
    order = np.argsort(stream.known_ms, kind="stable")
    bounds = np.searchsorted(stream.known_ms[order], stream.times_ms, side="left")
    learner = Workspace(f"{_LINE} {setting}")
    first = int(stream.starts[stream.live_from])
    predictions = np.empty(len(stream.items) - first, np.float32)
    done = 0
    for request in range(stream.live_from, len(stream)):
        for row in order[done : bounds[request]].tolist():
            learner.learn(f"{1 if labels[row] else -1}{texts[row]}")
        done = max(done, int(bounds[request]))
        for row in range(int(stream.starts[request]), int(stream.starts[request + 1])):
            predictions[row - first] = learner.predict(texts[row])
    learner.finish()
    return predictions


def _texts(stream: OnlineStream) -> list[str]:
    """Return the features of each candidate as a line without a label."""
    letters = NAMESPACES[stream.name]
    columns = [(name, letters.get(name, "m"), column) for name, column in stream.shared.items()]
    shared = ["".join(parts) for parts in zip(*(_words(*one) for one in columns), strict=True)]
    columns = [(name, letters.get(name, "m"), column) for name, column in stream.candidates.items()]
    own = ["".join(parts) for parts in zip(*(_words(*one) for one in columns), strict=True)]
    return [shared[request] + text for request, text in zip(stream.request_of.tolist(), own, strict=True)]


def _words(name: str, letter: str, column: SparseColumn) -> Iterator[str]:
    """Yield a namespace with the fids of each row."""
    fids, start = column.fids.tolist(), 0
    for length in column.lengths.tolist():
        yield f" |{letter} " + " ".join(f"{name}_{fid}" for fid in fids[start : start + length])
        start += length
