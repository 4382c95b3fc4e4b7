"""Figures of predictions: AUC, logloss, normalised entropy, calibration; errors of regressions, figures of classes.

Weights count a prediction several times, a negative one takes back a prediction that was counted with another label. Without weights each
prediction counts once. Letters: n predictions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN without a positive or without a negative."""
    positive, weight = np.asarray(labels) > 0.5, _weights(labels, weights)
    _, places = np.unique(np.asarray(scores), return_inverse=True)
    positives = np.bincount(places[positive], weight[positive], minlength=1)  # by score, ascending
    negatives = np.bincount(places[~positive], weight[~positive], minlength=1)
    size = max(len(positives), len(negatives))
    positives, negatives = (np.pad(sums, (0, size - len(sums))) for sums in (positives, negatives))
    total = float(positives.sum() * negatives.sum())
    if positives.sum() <= 0 or negatives.sum() <= 0:
        return float("nan")
    return float(positives @ (np.cumsum(negatives) - negatives / 2)) / total


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


def logloss(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the mean binary cross-entropy in nats, with probabilities clipped to [1e-7, 1 - 1e-7]; NaN without a prediction."""
    y, weight = np.asarray(labels, np.float64), _weights(labels, weights)
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1.0 - 1e-7)
    total = float(weight.sum())
    return float(-(weight @ (y * np.log(p) + (1.0 - y) * np.log1p(-p)))) / total if total > 0 else float("nan")


def normalized_entropy(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return logloss / logloss of always predicting the mean label (He et al. 2014, equation 1); NaN if all labels are equal."""
    rate = label_rate(labels, weights)
    if not 0.0 < rate < 1.0:
        return float("nan")
    entropy = -(rate * np.log(rate) + (1.0 - rate) * np.log1p(-rate))
    return logloss(labels, probabilities, weights) / float(entropy)


def normalized_error(labels: npt.ArrayLike, values: npt.ArrayLike, weights: npt.ArrayLike | None = None, scale: str = "value") -> float:
    """Return the squared error of a regression on its scale / that of always predicting the mean label; NaN if all labels are equal.

    >>> normalized_error([0.0, 2.0], [1.0, 2.0])
    0.5
    """
    y, p = on_scale(labels, scale), on_scale(values, scale)
    return 1.0 - regression_errors(y, p, weights)[2]


def on_scale(values: npt.ArrayLike, scale: str) -> Float64Array:
    """Return values of a regression on its scale, "value" or "log1p"."""
    found = np.asarray(values, np.float64)
    return np.log1p(found) if scale == "log1p" else found


def calibration(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return mean prediction / mean label; NaN without a positive label."""
    weight = _weights(labels, weights)
    total = float(weight @ np.asarray(labels, np.float64))
    return float(weight @ np.asarray(probabilities, np.float64)) / total if total > 0 else float("nan")


def label_rate(labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the mean label; NaN without a label."""
    weight = _weights(labels, weights)
    total = float(weight.sum())
    return float(weight @ np.asarray(labels, np.float64)) / total if total > 0 else float("nan")


def regression_errors(labels: npt.ArrayLike, values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> tuple[float, float, float]:
    """Return the root of the mean squared error, the mean absolute error, and R2 = 1 - squared error / variance of the labels.

    NaN without a prediction, and R2 without a variance.

    >>> regression_errors([0.0, 2.0], [1.0, 2.0])
    (0.7071067811865476, 0.5, 0.5)
    """
    y, weight = np.asarray(labels, np.float64), _weights(labels, weights)
    errors, total = np.asarray(values, np.float64) - y, float(weight.sum())
    if total <= 0:
        return float("nan"), float("nan"), float("nan")
    squared = max(0.0, float(weight @ errors**2)) / total
    variance = float(weight @ (y - weight @ y / total) ** 2) / total
    return squared**0.5, float(weight @ np.abs(errors)) / total, 1.0 - squared / variance if variance > 0 else float("nan")


def class_figures(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and the share of examples whose class has the greatest probability.

    Labels and scores (n, classes): at most one label is 1, and the scores are what the classes have of 1; the rest is that of none of them.
    """
    y, p, weight = np.asarray(labels, np.float64), np.asarray(scores, np.float64), _weights(labels, weights)
    y, p = (np.column_stack([1.0 - values.sum(axis=1), values]) for values in (y, p))
    total = float(weight.sum())
    if total <= 0:
        return float("nan"), float("nan")
    entropy = -np.log(np.clip((y * p).sum(axis=1), 1e-7, 1.0))
    return float(weight @ entropy) / total, float(weight @ (y.argmax(axis=1) == p.argmax(axis=1))) / total


def _weights(labels: npt.ArrayLike, weights: npt.ArrayLike | None) -> Float64Array:
    return np.ones(len(np.asarray(labels))) if weights is None else np.asarray(weights, np.float64)
