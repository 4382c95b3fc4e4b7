"""Models compared on KuaiRand: one tower, experts by each gate, and ways to read a user's recent videos.

Letters: n impressions in order of time, L videos of a sequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from streams import Int64Array

from monolith_demo.dataset import kuairand
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch

NUM_RECENT = 20
TASKS = ("long_view", "click")
_KEYS = {"user_id": "user_id", "video_id": "item_id", "author_id": "item", "tab": "context"}
_DIM = 16


@dataclass(frozen=True)
class Variant:
    """One model."""

    name: str
    model: dict[str, Any]
    recent: dict[str, Any] | None = None  # settings of the feature of recent videos; None: without
    baseline: str = "one tower"  # whose AUC is the reference

    def job(self, seed: int) -> JobConfig:
        """Return the job of the model."""
        features = [{"name": name, "source": source, "dim": _DIM} for name, source in _KEYS.items()]
        if self.recent is not None:
            features.append({"name": "recent_videos", "source": "user", "dim": _DIM, **self.recent})
        return parse_job(
            {
                "name": "experts",
                "seed": seed,
                "log": {"url": "sqlite:///unused"},
                "kv": {"url": "memory:"},
                "features": features,
                "tasks": [{"name": name, "action": name} for name in TASKS],
                "model": {"precision": "fp32", **self.model},
                "trainer": {"checkpoint_dir": "unused", "num_threads": 1},
            }
        )


_TOWER = {"tower": [256, 128, 64]}
_EXPERT = {"tower": [128, 64]}
_FIRST = {"pooling": "first", "length": NUM_RECENT}


def _experts(name: str, **settings: Any) -> Variant:
    return Variant(name, {**_EXPERT, "experts": {"count": 4, **settings}})


VARIANTS = (
    Variant("one tower", _TOWER),
    Variant("one expert's tower", _EXPERT),
    _experts("softmax", gate="softmax"),
    _experts("top 2 of 4", gate="top_k", top_k=2, balance=0.01),
    _experts("dense to sparse, 2 of 4", gate="dense_to_sparse", top_k=2, ramp_examples=50_000),
    _experts("dense to sparse, 1 of 4", gate="dense_to_sparse", top_k=1, ramp_examples=50_000),
    _experts("tree, 2 trees", gate="tree", top_k=2, ramp_examples=50_000, entropy=0.001),
    _experts("random, 2 of 4", gate="random", top_k=2, ramp_examples=50_000),
    Variant("recent: mean", _TOWER, {"pooling": "mean"}),
    Variant("recent: side by side", _TOWER, _FIRST, "recent: mean"),
    Variant("recent: attention", _TOWER, {**_FIRST, "attend_to": "video_id"}, "recent: mean"),
)


@dataclass
class Impressions:
    """The n impressions as columns; `recent`: the user's last videos with a long view, newest first, known before the impression."""

    fids: dict[str, Int64Array]
    recent: SparseColumn
    labels: dict[str, Any]
    times_ms: Int64Array
    starts: Int64Array = field(init=False)  # of each impression in `recent`

    def __post_init__(self) -> None:
        self.starts = np.r_[0, np.cumsum(self.recent.lengths, dtype=np.int64)]

    def __len__(self) -> int:
        return len(self.times_ms)

    def batch(self, start: int, end: int, names: Sequence[str]) -> ExampleBatch:
        """Return impressions as examples with these features."""
        num = end - start
        ones = np.ones(num, np.int32)
        sparse = {name: SparseColumn(self.fids[name][start:end], ones) for name in names if name in self.fids}
        if "recent_videos" in names:
            fids = self.recent.fids[self.starts[start] : self.starts[end]]
            sparse["recent_videos"] = SparseColumn(fids, self.recent.lengths[start:end])
        return ExampleBatch(
            tuple(map(str, range(start, end))),
            self.fids["video_id"][start:end],
            self.times_ms[start:end],
            np.zeros(num, np.uint8),
            np.ones(num, np.float32),
            {name: self.labels[name][start:end].astype(np.float32) for name in TASKS},
            FeatureColumns(num, sparse, {}),
        )


def load_impressions(limit: int | None) -> Impressions:
    """Return the first `limit` impressions of KuaiRand, all by default."""
    stream = kuairand.load_stream()
    stream = stream if limit is None else stream.head(limit)
    known = kuairand.load_videos()
    authors = np.array([known[int(video)].sparse["author_id"].fids[0] for video in stream.videos])
    keys = (stream.users, stream.videos, authors, stream.tabs)
    return Impressions(
        dict(zip(_KEYS, keys, strict=True)),
        _recent(stream),
        {"long_view": stream.long_views, "click": stream.clicks},
        stream.times_ms,
    )


def _recent(stream: kuairand.Stream) -> SparseColumn:
    """Return the videos of each impression's user that were viewed long and had ended, newest first, at most `NUM_RECENT`."""
    ended: dict[int, list[tuple[int, int]]] = defaultdict(list)  # user -> (time of the end, video), in order of impressions
    fids: list[int] = []
    lengths = np.zeros(len(stream), np.int32)
    ends = stream.action_times_ms
    for index, (user, now_ms) in enumerate(zip(stream.users.tolist(), stream.times_ms.tolist(), strict=True)):
        seen = [video for end_ms, video in reversed(ended[user]) if end_ms <= now_ms][:NUM_RECENT]
        fids += seen
        lengths[index] = len(seen)
        if stream.long_views[index]:
            ended[user].append((int(ends[index]), int(stream.videos[index])))
            del ended[user][: -2 * NUM_RECENT]
    return SparseColumn(np.array(fids, np.int64), lengths)
