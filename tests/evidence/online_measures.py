"""Measures of scores made at the request: over all candidates, within requests, and over time.

Letters: m scored candidates, M requests with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.training import auc, calibration, normalized_entropy


@dataclass(frozen=True)
class Quality:
    """Measures of m scores of one task."""

    auc: float
    per_request: float  # mean AUC of the requests with a positive and a negative; NaN without one
    ne: float
    calibration: float


def quality(labels: npt.ArrayLike, scores: FloatArray, requests: Int64Array) -> Quality:
    """Return the measures of `scores`; `requests` (m,) has the request of each."""
    return Quality(
        auc(labels, scores), per_request_auc(labels, scores, requests), normalized_entropy(labels, scores), calibration(labels, scores)
    )


def per_request_auc(labels: npt.ArrayLike, scores: FloatArray, requests: Int64Array) -> float:
    """Return the mean of the AUC of each request with a positive and a negative; ties count half; NaN if there is none."""
    positive = np.asarray(labels) > 0.5
    order = np.lexsort((scores, requests))
    positive, scores, requests = positive[order], np.asarray(scores)[order], requests[order]
    new_request = np.r_[True, requests[1:] != requests[:-1]]
    new_place = new_request | np.r_[True, scores[1:] != scores[:-1]]
    request, place = np.cumsum(new_request) - 1, np.cumsum(new_place) - 1
    ups, downs = np.bincount(place, positive), np.bincount(place, ~positive)
    of = request[new_place]  # request of each place
    below = np.cumsum(downs) - downs
    before = below[np.searchsorted(of, np.arange(of[-1] + 1))]  # negatives of earlier requests
    wins = np.bincount(of, ups * (below - before[of] + downs / 2))
    pairs = np.bincount(request, positive) * np.bincount(request, ~positive)
    there = pairs > 0
    return float((wins[there] / pairs[there]).mean()) if there.any() else float("nan")


def auc_over_time(labels: npt.ArrayLike, scores: FloatArray, num_parts: int) -> list[float]:
    """Return the AUC of each of `num_parts` consecutive parts with the same number of candidates."""
    return [
        auc(one, two) for one, two in zip(np.array_split(np.asarray(labels), num_parts), np.array_split(scores, num_parts), strict=True)
    ]
