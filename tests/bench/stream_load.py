"""Streams for the benches of the joiner: 36 features, half of them the user's, half the item's; 1.8 events an impression."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io import Log
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.log.topics import Topics, create_topics

START_MS = 1_700_000_000_000
NUM_FEATURES = 36
_CHUNK = 500


def job_in(folder: Path, log_url: str | None = None, kv_url: str | None = None, prefix: str = "") -> JobConfig:
    """Return a job whose log and store are files in `folder` unless they are given."""
    return parse_job(
        {
            "name": "bench",
            "log": {"url": log_url or f"sqlite:///{folder / 'log'}", "topic_prefix": prefix},
            "kv": {"url": kv_url or f"sqlite:///{folder / 'kv.db'}"},
            "features": [{"name": name, "source": "user"} for name in feature_names()],
            "tasks": [{"name": "is_click", "action": "click"}, {"name": "long_view", "action": "long_view"}],
            "joiner": {"window_s": 60, "allowed_lateness_s": 60, "terminal_actions": ["play_end"]},
            "trainer": {"checkpoint_dir": str(folder / "checkpoints")},
        }
    )


def feature_names() -> list[str]:
    """Return the names of the features: half of them the user's, half the item's."""
    return [f"{'user' if index % 2 else 'item'}_feature_{index}" for index in range(NUM_FEATURES)]


def impression(index: int, num_candidates: int, rng: np.random.Generator) -> Impression:
    """Return the impression of request `index`."""
    names, ids = feature_names(), index % 5000 + np.arange(num_candidates)
    fids = rng.integers(0, 1 << 40, (NUM_FEATURES, num_candidates))
    one, each = np.ones(1, np.int32), np.ones(num_candidates, np.int32)
    return Impression(
        request_id=f"request-{index}",
        time_ms=START_MS + index * 10,
        user_id=index,
        item_ids=ids,
        shared=FeatureColumns(1, {name: SparseColumn(fids[i, :1], one) for i, name in enumerate(names) if i % 2}),
        candidates=FeatureColumns(num_candidates, {name: SparseColumn(fids[i], each) for i, name in enumerate(names) if i % 2 == 0}),
        scores=np.full((num_candidates, 2), 0.5, np.float32),
        task_names=("is_click", "long_view"),
        model_version="1.1",
    )


def write_stream(log: Log, job: JobConfig, num_requests: int, num_candidates: int = 1) -> None:
    """Append an impression every 10 ms; for half of them the end of the play of its first candidate, for a third a click before it."""
    create_topics(log, job.log)
    topics, rng = Topics.of(job.log), np.random.default_rng(0)
    for start in range(0, num_requests, _CHUNK):
        impressions, actions = [], []
        for index in range(start, min(start + _CHUNK, num_requests)):
            one = impression(index, num_candidates, rng)
            impressions.append(encode_impression(one))
            kinds = (["click"] if index % 3 == 0 else []) + (["play_end"] if index % 2 == 0 else [])
            actions += [encode_action(Action(one.request_id, int(one.item_ids[0]), kind, one.time_ms + 3000)) for kind in kinds]
        log.append(topics.impressions, impressions, time_ms=START_MS + start * 10)
        log.append(topics.actions, actions, time_ms=START_MS + start * 10 + 3000)


def count(log: Log, topic: str) -> int:
    """Return the number of different examples in `topic`."""
    offset, seen = 0, set()
    while records := log.read(topic, 0, offset, 100):
        offset = records[-1].offset + 1
        for record in records:
            batch = decode_examples(record.value)
            seen |= set(zip(batch.request_ids, batch.item_ids.tolist(), batch.kinds.tolist(), strict=True))
    return len(seen)
