"""Candidates ranked in a CPU second with bags as large as those of DLRMv2: by the core's call, and by a replica process.

Rows of 26 features of dim 128 are pooled in bags of 1 to 100 fids, 214 in all, as in MLPerf's DLRM-DCNv2. The model is a DLRM with tower
512-256 and no dense features. All features are of the item, so that no pair shares a look-up with another one; with `shared` half of the
features, 37 of the look-ups, are of the user, and a request handles them once. Impressions are not logged, as MLPerf logs nothing: one
of 500 candidates would have 856 KB.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from bench_jobs import BenchJob
from figures import figure
from serve_rate import RankingProcess

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.counters import LiveCounters
from monolith_py.data.schema import Schema
from monolith_py.io import open_kv
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.core_ranker import CoreRanker
from monolith_serving.replica.replica import Replica

# Fids of each bag in MLPerf's multi-hot Criteo data.
BAGS = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
NUM_CANDIDATES = 500
NUM_REQUESTS = 64
ROUNDS = 3
_ITEM_ID, _USER_ID = 16, 2  # features with bags of one


def bench_pairs(generator: np.random.Generator, seconds: float, num_rows: int) -> None:
    """Print the figures."""
    own = ["item"] * len(BAGS)
    own[_ITEM_ID] = "item_id"
    shared = ["user"] * (len(BAGS) // 2) + own[len(BAGS) // 2 :]
    shared[_USER_ID] = "user_id"
    for suffix, sources in (("", own), (".shared", shared)):
        bench_one(sources, suffix, generator, seconds, num_rows)


def bench_one(sources: Sequence[str], suffix: str, generator: np.random.Generator, seconds: float, num_rows: int) -> None:
    """Print the figures of features with these sources."""
    sparse = list(zip(sources, BAGS, strict=True))
    model = {"kind": "dlrm", "tower": [512, 256]}
    shape = BenchJob(sparse, (), 128, model, num_rows, num_users=500, num_items=5000, log_impressions=False)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        job = shape.prepare(folder, generator)
        requests = shape.requests(generator, NUM_REQUESTS, NUM_CANDIDATES)
        bench_core(job, requests, suffix, seconds)
        replica = RankingProcess(Path(__file__).parents[2], folder, stack)
        replica.requests_per_cpu_s(requests, seconds / 2)  # caches warm
        rates = [replica.requests_per_cpu_s(requests, seconds) * NUM_CANDIDATES for _ in range(ROUNDS)]
        figure(f"serve.pairs_per_cpu_s.replica{suffix}", float(np.median(rates)), "1/s")


def bench_core(job: JobConfig, requests: Sequence[bytes], suffix: str, seconds: float) -> None:
    """Print the rate of the core's call alone, by CPU time of the calling thread."""
    clock = SystemClock()
    replica = Replica(job, None, torch.device("cpu"), clock)
    assert replica.load_newest()
    with closing(open_kv(job.kv)) as kv, closing(FeatureStore(kv, Schema.of(job), LiveCounters.of(job), job.serving, clock)) as store:
        ranker = CoreRanker(job, replica, store, None, clock)

        def rank(request: bytes) -> None:
            ranked = ranker.rank(request, clock.monotonic_s() + 30)
            assert ranked is not None and ranked.is_complete

        for request in requests:  # caches warm
            rank(request)
        times_s, end_s = [], time.perf_counter() + seconds * ROUNDS
        while time.perf_counter() < end_s:
            began_s = time.thread_time()
            for request in requests:
                rank(request)
            times_s.append((time.thread_time() - began_s) / len(requests))
        answer = ranker.rank(requests[0], clock.monotonic_s() + 30)
        assert answer is not None and len(pb.RankResponse.FromString(answer.response).scores) == NUM_CANDIDATES
    replica.close()
    figure(f"serve.pairs_per_cpu_s.core{suffix}", NUM_CANDIDATES / float(np.median(times_s)), "1/s")
