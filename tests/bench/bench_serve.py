"""Parameter sync and serving in a second: look-up against plain FBGEMM, encoding and applying deltas, and a real replica under load.

36 features of dim 16, two tasks, int8 rows. The replica is a process of its own; the client shares the machine with it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from figures import figure
from job_file import Tables, write_job
from replica_processes import address_of, replicas
from replica_rows import bench_replica_rows
from serve_rate import bench_rates

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import open_kv
from monolith_py.io.codec import encode_features
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.client import RankClient

DIM, NUM_FEATURES, NUM_FIDS = 16, 36, 20_000
NUM_USERS, NUM_ITEMS = 500, 5_000
USER_FEATURES = [f"user_{index}" for index in range(25)]
ITEM_FEATURES = [f"item_{index}" for index in range(8)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load test")
    parser.add_argument(
        "--base", type=Path, help="checkout of an earlier commit, built in its .venv, to compare requests a CPU second with"
    )
    parser.add_argument("--only-rates", action="store_true", help="print requests a CPU second alone")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    here = Path(__file__).parents[2]
    checkouts = {"ours": here} if arguments.base is None else {"ours": here, "base": arguments.base.resolve()}
    if arguments.only_rates:
        bench_rates(checkouts, generator, seconds, NUM_USERS, NUM_ITEMS)
        return
    bench_replica_rows(generator)
    with tempfile.TemporaryDirectory() as folder:
        bench_rank(Path(folder), generator, seconds)
    bench_rates(checkouts, generator, seconds, NUM_USERS, NUM_ITEMS)


def bench_rank(folder: Path, generator: np.random.Generator, seconds: float) -> None:
    """A replica process with learnt rows: one request at a time with 100 candidates."""
    config = prepare(folder, generator)
    with replicas([config]), RankClient(address_of(config)) as client:
        bench_latency(client, generator, seconds)


def job_of(config: Path, settings: Tables) -> JobConfig:
    """Write the job with such settings to `config`, and its topics; return it."""
    named = [("user_id", "user_id"), ("item_id", "item_id"), ("tab", "context")]
    named += [(name, "user") for name in USER_FEATURES] + [(name, "item") for name in ITEM_FEATURES]
    assert len(named) == NUM_FEATURES
    return write_job(config, named, {"is_click": "click", "long_view": "long_view"}, {"trainer": {"num_threads": 0}, **settings})


def prepare(folder: Path, generator: np.random.Generator) -> Path:
    """Write a job, its topics, stored features and a checkpoint with a row for every fid; return the job's file."""
    config = folder / "job.toml"
    job = job_of(config, {})
    with closing(open_kv(job.kv.url)) as kv:
        for kind, count, names in (("user", NUM_USERS, USER_FEATURES), ("item", NUM_ITEMS, ITEM_FEATURES)):
            fids = generator.integers(0, NUM_FIDS, (count, len(names)))
            one = np.ones(1, np.int32)
            rows = [{name: SparseColumn(row[place : place + 1], one) for place, name in enumerate(names)} for row in fids]
            kv.write({f"{kind}:{entity}": encode_features(FeatureColumns(1, columns)) for entity, columns in enumerate(rows)})
    trainer = Trainer(job)
    for start in range(0, NUM_FIDS, 2000):
        column = SparseColumn(np.arange(start, start + 2000), np.ones(2000, np.int32))
        labels = {task: (generator.random(2000) < 0.3).astype(np.float32) for task in trainer.schema.tasks}
        names = tuple(map(str, range(2000)))
        times, kinds, rates = np.full(2000, 1000), np.zeros(2000, np.uint8), np.ones(2000, np.float32)
        features = FeatureColumns(2000, dict.fromkeys(trainer.schema.sparse_names, column))
        trainer.step(ExampleBatch(names, column.fids, times, kinds, rates, labels, features))
    meta = CheckpointMeta("bench", trainer.num_batches, trainer.num_examples, 1, 0, 0, {}, 0, 1)
    save_checkpoint(Path(job.trainer.checkpoint_dir), trainer, meta, keep=1)
    return config


def bench_latency(client: RankClient, generator: np.random.Generator, seconds: float) -> None:
    """One request at a time, 100 candidates each."""
    requests = [(int(generator.integers(NUM_USERS)), generator.integers(0, NUM_ITEMS, 100).tolist()) for _ in range(500)]
    durations_s: list[float] = []
    for user, items in requests:
        client.rank(user, items, context={"tab": [1]}, timeout_s=10.0)
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        for user, items in requests[:50]:
            began_s = time.perf_counter()
            result = client.rank(user, items, context={"tab": [1]}, timeout_s=10.0)
            durations_s.append(time.perf_counter() - began_s)
            assert result.scores.shape == (100, 2)
    figure("serve.rank_p50_ms", float(np.percentile(durations_s, 50)) * 1000, "ms")
    figure("serve.rank_p99_ms", float(np.percentile(durations_s, 99)) * 1000, "ms")


if __name__ == "__main__":
    main()
