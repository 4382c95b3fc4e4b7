"""How sure a difference is: intervals over seeds, and over the users that happened to be in the data.

Letters: n scored examples, G groups (users), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

NUM_RESAMPLES = 100
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_NORMAL95 = 1.960


def half_width(differences: Sequence[float]) -> float:
    """Return the half-width of the 95 % interval of the mean of paired differences (Student 1908); NaN for fewer than two."""
    count = len(differences)
    return _T95[count - 1] * float(np.std(differences, ddof=1)) / math.sqrt(count) if count > 1 else math.nan


def half_width_of_resamples(differences: npt.ArrayLike) -> float:
    """Return the half-width of the 95 % interval by the spread of a statistic over resamples (Efron 1979), taken as normal."""
    return _NORMAL95 * float(np.std(np.asarray(differences), ddof=1))


def resampled_aucs(labels: npt.ArrayLike, scores: npt.ArrayLike, groups: npt.NDArray[np.int64]) -> FloatArray:
    """Return the AUC of each resample of the groups with replacement, float32 (R,): the resamples depend on the number of groups alone.

    Whole groups are drawn, because examples of one user are not independent (Field and Welsh 2007, the cluster bootstrap).
    """
    generator = np.random.default_rng(0)
    positive = np.asarray(labels) > 0.5
    _, places = np.unique(np.asarray(scores), return_inverse=True)
    num_groups, num_places = int(groups.max()) + 1, int(places.max()) + 1
    order = np.argsort(places, kind="stable")  # makes what follows run through memory in order
    places, groups, positive = places[order], groups[order], positive[order]
    aucs = np.empty(NUM_RESAMPLES, np.float32)
    for index in range(NUM_RESAMPLES):
        times_drawn = np.bincount(generator.integers(0, num_groups, num_groups), minlength=num_groups)
        weights = times_drawn[groups].astype(np.float64)
        aucs[index] = _weighted_auc(weights, positive, places, num_places)
    return aucs


def _weighted_auc(weights: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], places: npt.NDArray[np.int64], num: int) -> float:
    """Return the weighted share of pairs in the right order, ties counting half; `places` are the ranks of the scores, 0 to num - 1."""
    up = np.bincount(places, np.where(positive, weights, 0.0), num)
    down = np.bincount(places, np.where(positive, 0.0, weights), num)
    below = np.cumsum(down) - down / 2
    return float((up * below).sum() / (up.sum() * down.sum()))
