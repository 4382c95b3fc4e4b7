"""Impressions joined in a second, online and by replay: requests of one candidate with 36 features, one partition, SQLite log and store."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import figure

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io import open_log
from monolith_py.io.codec import decode_examples, encode_action, encode_impression
from monolith_py.io.log.topics import Topics, create_topics
from monolith_streaming.joiner.process import run_joiner
from monolith_streaming.replay.beam import run_replay

START_MS = 1_700_000_000_000
NUM_FEATURES = 36


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60_000)
    num_requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        job = job_in(Path(folder))
        write_stream(job, num_requests)
        began_s = time.perf_counter()
        run_joiner(job, stop_at_end=True)
        joined_s = time.perf_counter() - began_s
        assert count(job, Topics.of(job.log).examples) == num_requests
        figure("stream.joiner_impressions_per_s", num_requests / joined_s, "1/s")
        began_s = time.perf_counter()
        result = run_replay(job, start_ms=START_MS, end_ms=START_MS + num_requests * 10, output=None)
        replayed_s = time.perf_counter() - began_s
        assert count(job, result.topic) == num_requests
        figure("stream.replay_requests_per_s", num_requests / replayed_s, "1/s")


def job_in(folder: Path) -> JobConfig:
    """Return a job whose log and store are files in `folder`."""
    return parse_job(
        {
            "name": "bench",
            "log": {"url": f"sqlite:///{folder / 'log'}"},
            "kv": {"url": f"sqlite:///{folder / 'kv.db'}"},
            "features": [{"name": name, "source": "user"} for name in feature_names()],
            "tasks": [{"name": "is_click", "action": "click"}, {"name": "long_view", "action": "long_view"}],
            "joiner": {"window_s": 60, "allowed_lateness_s": 60, "terminal_actions": ["play_end"]},
            "trainer": {"checkpoint_dir": str(folder / "checkpoints")},
        }
    )


def feature_names() -> list[str]:
    """Return the names of the features: half of them the user's, half the item's."""
    return [f"{'user' if index % 2 else 'item'}_feature_{index}" for index in range(NUM_FEATURES)]


def write_stream(job: JobConfig, num_requests: int) -> None:
    """Append an impression every 10 ms, and for each of them the end of its play; for a third a click before it."""
    log = open_log(job.log.url)
    create_topics(log, job.log)
    topics = Topics.of(job.log)
    rng = np.random.default_rng(0)
    one = np.ones(1, np.int32)
    names = feature_names()
    for start in range(0, num_requests, 1000):
        impressions, actions = [], []
        for index in range(start, min(start + 1000, num_requests)):
            request_id, time_ms, item_id = f"request-{index}", START_MS + index * 10, index % 5000
            fids = rng.integers(0, 1 << 40, NUM_FEATURES)
            columns = {name: SparseColumn(fids[i : i + 1], one) for i, name in enumerate(names)}
            shared = FeatureColumns(1, {name: columns[name] for name in names[1::2]})
            candidate = FeatureColumns(1, {name: columns[name] for name in names[::2]})
            scores = np.full((1, 2), 0.5, np.float32)
            ids = np.array([item_id])
            impressions.append(
                encode_impression(Impression(request_id, time_ms, index, ids, shared, candidate, scores, ("is_click", "long_view"), "1.1"))
            )
            kinds = (["click"] if index % 3 == 0 else []) + (["play_end"] if index % 2 == 0 else [])
            actions += [encode_action(Action(request_id, item_id, kind, time_ms + 3000)) for kind in kinds]
        log.append(topics.impressions, impressions, time_ms=START_MS + start * 10)
        log.append(topics.actions, actions, time_ms=START_MS + start * 10 + 3000)
    log.close()


def count(job: JobConfig, topic: str) -> int:
    """Return the number of different examples in `topic`."""
    log = open_log(job.log.url)
    offset, seen = 0, set()
    while records := log.read(topic, 0, offset, 100):
        offset = records[-1].offset + 1
        for record in records:
            batch = decode_examples(record.value)
            seen |= set(zip(batch.request_ids, batch.kinds.tolist(), strict=True))
    log.close()
    return len(seen)


if __name__ == "__main__":
    main()
