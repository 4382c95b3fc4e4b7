"""CPU time of a shadow for each mirrored request, of the guard for each judgement, and p99 of a replica beside a shadow.

36 features of dim 16, int8 rows. CPU times are of one thread; for p99 replica and shadow are processes on the same machine, and the shadow
runs and stands still in turns.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from bench_serve import NUM_ITEMS, job_of, prepare
from figures import cpu_seconds, figure, print_machine
from replica_processes import address_of, p99_ratio, rank_for, replicas, running

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.io import MemoryLog, open_log
from monolith_py.io.codec import encode_impression
from monolith_py.io.log.topics import Topics, create_topics
from monolith_py.model.batch import make_batch
from monolith_py.training import CheckpointMeta, Trainer, save_checkpoint
from monolith_serving.client import RankClient
from monolith_serving.replica.replica import Replica
from monolith_serving.shadow.shadow import Shadow

NUM_FIDS, NUM_CHUNK = 20_000, 200
SHARED, OWN = [f"user_{index}" for index in range(26)], [f"item_{index}" for index in range(10)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a turn with or without the shadow")
    parser.add_argument("--turns", type=int, default=5, help="number of turns of each kind")
    options = parser.parse_args()
    print_machine(1)
    torch.set_num_threads(1)
    bench_cpu()
    with tempfile.TemporaryDirectory() as name:
        bench_p99(Path(name), options.seconds, options.turns)


def bench_p99(folder: Path, seconds: float, num_turns: int) -> None:
    """Time of a ranking of 100 candidates, 60 a second, while a shadow scores all of them and while it stands still, in turns."""
    config = prepare(folder, np.random.default_rng(0))
    mirror = folder / "shadow.toml"
    # By default it would drop what came while it stood still.
    job = job_of(mirror, {"serving": {"arm": "wide"}, "shadow": {"max_lag_s": 3600.0}})
    topics = Topics.of(job.log)
    with (
        replicas([config]),
        running([["shadow", "--config", str(mirror)]]) as (shadow,),
        closing(open_log(job.log)) as log,
        RankClient(address_of(config)) as client,
    ):

        def behind() -> int:
            return log.end_offset(topics.impressions) - log.end_offset(topics.shadow_scores)

        while log.end_offset(topics.shadow_scores) == 0:  # it begins with what comes after its start
            rank_for(client, 0.5, NUM_ITEMS)
        time.sleep(1.0)
        passed_over = behind()
        turns, used_s = [], 0.0
        for _ in range(num_turns):
            shadow.send_signal(signal.SIGSTOP)
            still = rank_for(client, seconds, NUM_ITEMS)
            shadow.send_signal(signal.SIGCONT)
            until_s = time.monotonic() + 60
            while behind() > passed_over:
                assert time.monotonic() < until_s, "the shadow does not catch up"
                time.sleep(0.05)
            cpu_s = cpu_seconds(shadow.pid)
            turns.append((still, rank_for(client, seconds, NUM_ITEMS)))
            used_s += cpu_seconds(shadow.pid) - cpu_s
        figure("serve.shadow_cores", used_s / (num_turns * seconds), "cores")
        for place, name in enumerate(("p99_without_shadow", "p99_beside_shadow")):
            figure(f"serve.{name}_ms", 1000 * float(np.median([np.percentile(turn[place], 99) for turn in turns])), "ms")
        figure("serve.shadow_p99_ratio", p99_ratio(turns), "ratio")


def bench_cpu() -> None:
    """Print the CPU time of a mirrored request, and of a judgement of the guard."""
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
