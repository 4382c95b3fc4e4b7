"""CPU time of a shadow for each mirrored request, and of the guard for each judgement: 36 features of dim 16, int8 rows, in one thread."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from figures import figure

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.io import MemoryLog
from monolith_py.io.codec import encode_impression
from monolith_py.io.log.topics import create_topics
from monolith_py.model.batch import make_batch
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.replica.replica import Replica
from monolith_serving.shadow.shadow import Shadow

NUM_FIDS, NUM_CHUNK = 20_000, 200
SHARED, OWN = [f"user_{index}" for index in range(26)], [f"item_{index}" for index in range(10)]


def main() -> None:
    """Print the figures."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        job, log, clock = make_job(folder), MemoryLog(), ManualClock(1_700_000_000_000)
        create_topics(log, job.log)
        trainer = Trainer(job)
        save_checkpoint(Path(job.trainer.checkpoint_dir), trainer, CheckpointMeta("bench", 0, 0, 1, 0, 0, {}, 0, 0), keep=1)
        replica = Replica(job, None, torch.device("cpu"), clock)
        assert replica.load_newest()
        generator = np.random.default_rng(0)
        shadow = Shadow(job, log, replica, clock)
        for num in (1, 100):
            values = [impression(generator, f"{num}-{index}", num) for index in range(NUM_CHUNK)]
            seconds = []
            for _ in range(6):
                log.append("impressions", values, time_ms=1)
                began = time.process_time()
                assert shadow.step(0.0) == NUM_CHUNK
                seconds.append(time.process_time() - began)
            figure(f"serve.shadow_us.{num}", 1e6 * min(seconds) / NUM_CHUNK, "us of CPU a request")
        rows = 4096
        ones = np.ones(rows, np.int32)
        sparse = {name: SparseColumn(generator.integers(0, NUM_FIDS, rows), ones) for name in SHARED + OWN}
        batch = make_batch(FeatureColumns(rows, sparse), trainer.schema)
        seconds = []
        for _ in range(6):
            began = time.process_time()
            replica.state.predict(batch)
            seconds.append(time.process_time() - began)
        figure("serve.guard_judgement_ms", 1e3 * min(seconds), "ms of CPU, 4,096 examples")


def make_job(folder: str) -> JobConfig:
    """Return the job, with all features of the impressions."""
    sources = {**dict.fromkeys(SHARED, "user"), **dict.fromkeys(OWN, "item")}
    return parse_job(
        {
            "name": "bench",
            "log": {"url": f"sqlite:///{folder}/log"},
            "kv": {"url": "memory:"},
            "features": [{"name": name, "source": source, "dim": 16} for name, source in sources.items()],
            "tasks": [{"name": "click", "action": "click"}, {"name": "like", "action": "like"}],
            "trainer": {"checkpoint_dir": f"{folder}/checkpoints"},
            "sync": {"encoding": "int8"},
            "serving": {"follow_updates": False, "arm": "wide"},
        }
    )


def impression(generator: np.random.Generator, request_id: str, num: int) -> bytes:
    """Return an impression of `num` candidates, one fid a feature."""
    one, ones = np.ones(1, np.int32), np.ones(num, np.int32)
    shared = FeatureColumns(1, {name: SparseColumn(generator.integers(0, NUM_FIDS, 1), one) for name in SHARED})
    own = FeatureColumns(num, {name: SparseColumn(generator.integers(0, NUM_FIDS, num), ones) for name in OWN})
    scores = np.full((num, 2), 0.5, np.float32)
    return encode_impression(Impression(request_id, 1, 7, np.arange(num), shared, own, scores, ("click", "like"), "1.0", "live"))


if __name__ == "__main__":
    main()
