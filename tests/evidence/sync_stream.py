"""KuaiRand as arrays for the evidence on synchronization: ids, live and frozen counters, labels, event times.

Letters: n impressions in order of time, F sparse features, W dense values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from streams import FIRST_WARM_DAY, FloatArray, Int64Array, live_counter_values, live_counters

from monolith_demo.dataset import kuairand

# The first day that is scored; those before are history.
FIRST_SCORED_DAY = 11
# A quick run: impressions, and the share of them that is history.
NUM_QUICK, QUICK_HISTORY = 2400, 0.6


@dataclass(frozen=True)
class SyncStream:
    """The n impressions; every feature has one fid in each."""

    names: tuple[str, ...]  # (F,)
    fids: Int64Array  # (F, n)
    live: FloatArray  # (n, W) counters of all impressions before
    frozen: FloatArray  # (n, W) counters of the impressions before `scored_from`
    labels: FloatArray  # (n,) long_view
    times_s: Int64Array  # (n,)
    scored_from: int

    def __len__(self) -> int:
        return len(self.labels)


def load_sync_stream(*, quick: bool = False) -> SyncStream:
    """Return the shipped KuaiRand with user, video, author and tab, and the counters of each.

    Counters have mean 0 and deviation 1 on the impressions before the third day, as in streams.py.
    """
    stream = kuairand.load_stream()
    scored_from, warm_from = stream.first_of_day(FIRST_SCORED_DAY), stream.first_of_day(FIRST_WARM_DAY)
    if quick:
        stream = stream.head(NUM_QUICK)
        scored_from = warm_from = int(NUM_QUICK * QUICK_HISTORY)
    videos, inverse = np.unique(stream.videos, return_inverse=True)
    known = kuairand.load_videos()
    authors = np.array([known[int(video)].sparse["author_id"].fids[0] for video in videos])[inverse]
    keys = {"user_id": stream.users, "video_id": stream.videos, "author_id": authors, "tab": stream.tabs}
    outcomes = (stream.long_views, stream.clicks)
    live = np.concatenate([live_counters(key, outcomes) for key in keys.values()], axis=1)
    frozen = np.concatenate([frozen_counters(key, outcomes, scored_from) for key in keys.values()], axis=1)
    mean, deviation = live[:warm_from].mean(axis=0), live[:warm_from].std(axis=0)
    return SyncStream(
        tuple(keys),
        np.stack(list(keys.values())),
        (live - mean) / deviation,
        (frozen - mean) / deviation,
        stream.long_views.astype(np.float32),
        stream.times_ms // 1000,
        scored_from,
    )


def frozen_counters(keys: Int64Array, outcomes: Sequence[npt.NDArray[np.bool_]], end: int) -> FloatArray:
    """Return the values of the counters of `keys` after the first `end` examples, for all: float32 (n, 1 + outcomes)."""
    _, place = np.unique(keys, return_inverse=True)
    sums = [np.bincount(place[:end], weights, place.max() + 1)[place] for weights in (None, *(one[:end] for one in outcomes))]
    return live_counter_values(np.stack(sums, axis=1).astype(np.int64))
