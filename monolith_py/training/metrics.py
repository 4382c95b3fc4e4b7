"""Progressive metrics, of predictions made before the model learnt from the example.

Letters: n predictions.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FloatArray


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN without a positive or without a negative."""
    positive = np.asarray(labels) > 0.5
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, places, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mean_ranks[places[positive]].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2.0) / (num_positive * num_negative)


def per_impression_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, request_codes: npt.ArrayLike) -> float:
    """Return the mean of the AUC over the requests that have a positive and a negative; NaN if none has both.

    All arrays are (n,); candidates with equal `request_codes`, int64, belong to one request.
    """
    requests = np.asarray(request_codes)
    order = np.lexsort((np.asarray(scores), requests))
    y, s, r = (np.asarray(labels) > 0.5)[order], np.asarray(scores)[order], requests[order]
    if not len(r):
        return float("nan")
    is_first = np.concatenate([[True], r[1:] != r[:-1]])  # of its request
    starts = np.flatnonzero(np.concatenate([[True], (r[1:] != r[:-1]) | (s[1:] != s[:-1])]))  # of runs of equal scores in a request
    counts = np.diff(np.append(starts, len(r)))
    request_starts = np.flatnonzero(is_first)
    places = np.cumsum(is_first) - 1
    ranks = np.repeat(starts + (counts + 1) / 2.0, counts) - request_starts[places]  # from 1 in each request, ties share the mean
    num = np.bincount(places)
    num_positive = np.bincount(places, y)
    rank_sums = np.bincount(places, np.where(y, ranks, 0.0))
    num_pairs = num_positive * (num - num_positive)
    both = num_pairs > 0
    if not both.any():
        return float("nan")
    return float(np.mean((rank_sums[both] - num_positive[both] * (num_positive[both] + 1) / 2.0) / num_pairs[both]))


def logloss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return the mean binary cross-entropy in nats, with probabilities clipped to [1e-7, 1 - 1e-7]; NaN without a prediction."""
    y = np.asarray(labels, np.float64)
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1.0 - 1e-7)
    return float(-(y * np.log(p) + (1.0 - y) * np.log1p(-p)).mean()) if len(y) else float("nan")


def normalized_entropy(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return logloss / logloss of always predicting the mean label (He et al. 2014, equation 1); NaN if all labels are equal."""
    y = np.asarray(labels, np.float64)
    rate = float(y.mean()) if len(y) else 0.0
    if rate in (0.0, 1.0):
        return float("nan")
    return logloss(y, probabilities) / logloss(y, np.full(len(y), rate))


def calibration(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Return mean prediction / mean label; NaN without a positive label."""
    total = float(np.asarray(labels, np.float64).sum())
    return float(np.asarray(probabilities, np.float64).sum()) / total if total else float("nan")


class ProgressiveWindow:
    """The last predictions of one task and their labels: at least `size` of them, in whole batches, once there are as many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._batches: deque[tuple[FloatArray, FloatArray]] = deque()
        self._num = 0

    def add(self, labels: FloatArray, probabilities: FloatArray) -> None:
        """Add a batch: labels and probabilities, float32 (n,)."""
        self._batches.append((labels, probabilities))
        self._num += len(labels)
        while self._num - len(self._batches[0][0]) >= self._size:
            self._num -= len(self._batches.popleft()[0])

    def values(self) -> tuple[FloatArray, FloatArray]:
        """Return all labels and probabilities of the window, oldest first, each float32 (n,)."""
        if not self._batches:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        return np.concatenate([b[0] for b in self._batches]), np.concatenate([b[1] for b in self._batches])
