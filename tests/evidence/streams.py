"""Whole streams as arrays, encoded once: fids of each feature, dense features, labels, event times.

Letters: n examples in order of time, F sparse features, W dense values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from monolith_demo.dataset import kuairand
from monolith_py.data.counters import LOG_COUNT_SCALE

# The first two days of KuaiRand, when almost everything is new, are not scored: warm is from 27 April on.
FIRST_WARM_DAY = 3
# The joiner's counters (monolith_py/data/counters.py) with the defaults of CounterConfig.
PRIOR_WEIGHT, PRIOR_RATE = 20.0, 0.3

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Columns:
    """The n examples; every feature has one fid in each."""

    names: tuple[str, ...]  # (F,)
    hashed: tuple[str, ...]  # those of `names` whose ids are many: hashing and eviction are tried on them
    fids: Int64Array  # (F, n)
    dense: FloatArray  # (n, W)
    labels: FloatArray  # (n,)
    times_s: Int64Array  # (n,)
    groups: Int64Array  # (n,) 0 to G - 1: who the example is about
    warm_from: int  # examples from here on are scored

    def __len__(self) -> int:
        return self.fids.shape[1]

    def num_ids(self, name: str) -> int:
        """Return how many different fids a feature has."""
        return len(np.unique(self.fids[self.names.index(name)]))

    def without_dense(self) -> Columns:
        """Return the same examples with sparse features alone."""
        return dataclasses.replace(self, dense=np.zeros((len(self), 0), np.float32))


def kuairand_columns(limit: int | None = None) -> Columns:
    """Return the shipped KuaiRand, label long_view: user, video, author and tab, and the live counters of each as dense features.

    Counters are brought to mean 0 and deviation 1 of the examples that are not scored; fed as the joiner has them they are worth 0.005 AUC
    less. `limit` takes the first so many impressions and scores their second half.
    """
    stream = kuairand.load_stream()
    warm_from = stream.first_of_day(FIRST_WARM_DAY)
    if limit is not None:
        stream, warm_from = stream.head(limit), limit // 2
    videos, inverse = np.unique(stream.videos, return_inverse=True)
    known = kuairand.load_videos()
    authors = np.array([known[int(video)].sparse["author_id"].fids[0] for video in videos])[inverse]
    keys = {"user_id": stream.users, "video_id": stream.videos, "author_id": authors, "tab": stream.tabs}
    outcomes = (stream.long_views, stream.clicks)
    counters = np.concatenate([live_counters(key, outcomes) for key in keys.values()], axis=1)
    before = counters[:warm_from]
    return Columns(
        tuple(keys),
        ("user_id", "video_id"),
        np.stack(list(keys.values())),
        (counters - before.mean(axis=0)) / before.std(axis=0),
        stream.long_views.astype(np.float32),
        stream.times_ms // 1000,
        np.unique(stream.users, return_inverse=True)[1],
        warm_from,
    )


def criteo_columns(path: Path, limit: int | None = None) -> Columns:
    """Return a Parquet file of Criteo's layout (label, I1 to I13, C1 to C26), whose second half is scored.

    A number x becomes the bucket floor(ln(x + 1)^2), what is absent or negative one of its own: the rule of the winners of Kaggle's Criteo
    challenge (Juan, Zhuang and Chin 2014), who take ln(x) and leave numbers up to 2 as they are.
    """
    table = parquet.read_table(path).slice(0, limit)
    categories = tuple(f"C{number}" for number in range(1, 27))
    columns = {name: compute.fill_null(table.column(name), -1).to_numpy() for name in categories}
    for name in (f"I{number}" for number in range(1, 14)):
        values = table.column(name).to_numpy().astype(np.float64)
        usable = values >= 0  # NaN is not
        columns[name] = np.where(usable, np.floor(np.log1p(np.where(usable, values, 0)) ** 2), -1).astype(np.int64)
    count = table.num_rows
    return Columns(
        tuple(columns),
        categories,
        np.stack(list(columns.values())),
        np.zeros((count, 0), np.float32),
        table.column("label").to_numpy().astype(np.float32),
        np.arange(count),  # it has no time stamps, only an order
        np.arange(count),
        count // 2,
    )


def live_counters(keys: Int64Array, outcomes: Sequence[npt.NDArray[np.bool_]]) -> FloatArray:
    """Return what counters of `keys` said before each example: float32 (n, 1 + outcomes), as `counter_values` of the counters has it.

    All examples before count, as if their outcomes were known at once.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.r_[True, ordered[1:] != ordered[:-1]]
    starts = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))  # (n,) where each one's key begins
    before = np.arange(len(keys)) - starts
    counts = np.empty((len(keys), 1 + len(outcomes)), np.int64)
    counts[order, 0] = before
    for place, outcome in enumerate(outcomes, start=1):
        sums = np.r_[0, np.cumsum(outcome[order])]
        counts[order, place] = sums[:-1] - sums[starts]
    return live_counter_values(counts)


def live_counter_values(counts: Int64Array, prior_rate: float = PRIOR_RATE) -> FloatArray:
    """Return counts, int64 (n, 1 + T), as `counter_values` of the counters has them: float32 of the same shape."""
    values = np.empty(counts.shape, np.float32)
    values[:, 0] = np.log1p(counts[:, 0]) / LOG_COUNT_SCALE
    values[:, 1:] = (counts[:, 1:] + PRIOR_WEIGHT * prior_rate) / (counts[:, :1] + PRIOR_WEIGHT)
    return values
