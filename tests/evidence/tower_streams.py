"""Streams for towers: the demo's features of KuaiRand, or a file of Criteo's layout, with the job that learns them.

Letters: n examples in order of time, B examples of a batch.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from streams import FIRST_WARM_DAY, Columns, FloatArray, Int64Array, criteo_columns, kuairand

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, Int32Array, SparseColumn

_DEMO = Path(__file__).parents[2] / "deploy" / "configs" / "demo.toml"
# The feature of a user that says whose taste turns in the forced drift: of 0 and 1 the latter, half of the impressions.
DRIFT_FEATURE, DRIFT_VALUE = "onehot_feat0", 1
# A rate of rows of 0.02 is the best of those tried for a dense tower on KuaiRand's 28 features.
_ROW_LR, _ROW_ACCUMULATOR = 0.02, 0.01

Span = tuple[str, int, int]  # name, first example, end


@dataclass(frozen=True)
class TowerStream:
    """The n examples with one task, and the job but for its tower and seed."""

    settings: dict[str, Any]
    features: dict[str, SparseColumn]  # n rows each
    labels: FloatArray  # (n,)
    times_s: Int64Array  # (n,)
    groups: Int64Array  # (n,) 0 to G - 1: who the example is about
    spans: tuple[Span, ...]  # what is scored

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def batch_size(self) -> int:
        """Return the examples of a batch."""
        return int(self.settings["trainer"]["batch_size"])

    @property
    def num_steps(self) -> int:
        """Return the batches of one pass."""
        return -(-len(self) // self.batch_size)

    @property
    def num_inputs(self) -> int:
        """Return the width of what goes into the tower: the rows side by side."""
        return sum(feature.dim for feature in self.job(model={}, seed=0).features)

    def job(self, model: dict[str, Any], seed: int, lr: float = 1e-3) -> JobConfig:
        """Return the job with this model, in fp32 unless it says otherwise, and with this rate of all that is dense."""
        optimizer = {**self.settings["optimizer"], "dense": {"lr": lr, "reference_batch": self.batch_size}}
        return parse_job({**self.settings, "model": {"precision": "fp32", **model}, "optimizer": optimizer, "seed": seed})

    def batches(self) -> Iterator[tuple[int, FeatureColumns]]:
        """Yield where each batch begins, and its features."""
        size = self.batch_size
        starts = {name: np.r_[0, np.cumsum(column.lengths)] for name, column in self.features.items()}
        for start in range(0, len(self), size):
            end = min(start + size, len(self))
            columns = {
                name: SparseColumn(column.fids[starts[name][start] : starts[name][end]], column.lengths[start:end])
                for name, column in self.features.items()
            }
            yield start, FeatureColumns(end - start, columns)

    def with_drift(self) -> TowerStream:
        """Return the same stream, but that from its middle on users with `DRIFT_FEATURE` = `DRIFT_VALUE` like what they did not.

        Their labels are reversed: nothing that a tower has learnt of them holds, while it holds as before of the others. Scored are the
        2/22 of the stream before the middle, the 3/22 after it, and the last 5/22.
        """
        middle, part = len(self) // 2, len(self) // 22
        column = self.features[DRIFT_FEATURE]
        turned = column.fids[np.r_[0, np.cumsum(column.lengths)[:-1]]] == DRIFT_VALUE
        turned[:middle] = False
        labels = np.where(turned, 1 - self.labels, self.labels)
        spans = (("before", middle - 2 * part, middle), ("after", middle, middle + 3 * part), ("end", len(self) - 5 * part, len(self)))
        return dataclasses.replace(self, labels=labels, spans=spans)


def kuairand_stream(limit: int | None = None) -> TowerStream:
    """Return the shipped KuaiRand with the demo's 28 features and without counters, label long_view.

    `limit` takes the first so many impressions and scores their second half.
    """
    stream = kuairand.load_stream()
    warm_from = stream.first_of_day(FIRST_WARM_DAY)
    if limit is not None:
        stream, warm_from = stream.head(limit), limit // 2
    settings = tomllib.loads(_DEMO.read_text())
    settings["tasks"] = [task for task in settings["tasks"] if task["name"] == "long_view"]
    settings["optimizer"] = {"sparse": _row_rule()}
    settings["trainer"]["batch_size"] = 256
    names = [feature["name"] for feature in settings["features"]]
    users, videos = kuairand.load_users(), kuairand.load_videos()
    own = {"user_id": stream.users, "video_id": stream.videos, "tab": stream.tabs}
    features = {}
    for name in names:
        if name in own:
            features[name] = SparseColumn(own[name], np.ones(len(stream), np.int32))
        elif name in kuairand.USER_FEATURES:
            features[name] = looked_up(stream.users, lambda user, name=name: users[user].sparse[name].fids)
        else:
            features[name] = looked_up(stream.videos, lambda video, name=name: videos[video].sparse[name].fids)
    return TowerStream(
        settings,
        features,
        stream.long_views.astype(np.float32),
        stream.times_ms // 1000,
        np.unique(stream.users, return_inverse=True)[1],
        (("warm", warm_from, len(stream)),),
    )


def criteo_stream(path: Path, limit: int | None = None) -> TowerStream:
    """Return a Parquet file of Criteo's layout as `streams.criteo_columns` reads it: 39 features of dim 8, the second half scored."""
    columns: Columns = criteo_columns(path, limit)
    settings = {
        "name": "criteo",
        "log": {"url": "sqlite:///unused"},
        "kv": {"url": "memory:"},
        "features": [{"name": name, "source": "item", "dim": 8} for name in columns.names],
        "tasks": [{"name": "label", "action": "click"}],
        "optimizer": {"sparse": _row_rule(lr=0.01)},
        "trainer": {"checkpoint_dir": "unused", "batch_size": 128},
    }
    lengths: Int32Array = np.ones(len(columns), np.int32)
    features = {name: SparseColumn(fids, lengths) for name, fids in zip(columns.names, columns.fids, strict=True)}
    spans = (("warm", columns.warm_from, len(columns)),)
    return TowerStream(settings, features, columns.labels, columns.times_s, columns.groups, spans)


def _row_rule(lr: float = _ROW_LR) -> dict[str, Any]:
    return {"kind": "adagrad", "lr": lr, "initial_accumulator": _ROW_ACCUMULATOR}


def looked_up(keys: Int64Array, fids_of: Callable[[int], Int64Array]) -> SparseColumn:
    """Return the stored fids of each key, (n,) keys."""
    known, places = np.unique(keys, return_inverse=True)
    rows = [fids_of(int(key)) for key in known]
    lengths = np.array([len(row) for row in rows], np.int32)
    width = max(1, int(lengths.max()))
    table = np.zeros((len(known), width), np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    there = np.arange(width) < lengths[:, None]  # (keys, width)
    return SparseColumn(table[places][there[places]], lengths[places])
