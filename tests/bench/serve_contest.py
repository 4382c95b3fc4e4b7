"""Load of Ray's published serving contest on a replica: 32 candidates a request, 13 dense and 26 sparse features of dim 64, over gRPC.

The model is a DLRM with bottom tower 256-64, tower 256-128-64 and 100,000 rows of each sparse feature. Features are stored: half of them
are the user's, half the item's, dense features included, so the bottom tower runs for every candidate. Impressions are logged. The client
keeps 32 requests in flight and shares the machine with the replica. Rate and p99 are by the wall clock, so they count on a quiet machine
alone; the rate by CPU time, of replica and client together, also counts on a busy one.
"""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from bench_jobs import BenchJob
from figures import cpu_seconds, figure
from serve_rate import IN_FLIGHT, RankingProcess

from monolith_py.pb import ranking_pb2 as pb

NUM_CANDIDATES, NUM_REQUESTS = 32, 512
ROUNDS = 3
SPARSE = ("user_id", *["user"] * 12, "item_id", *["item"] * 12)
DENSE = (*["user"] * 7, *["item"] * 6)
MODEL = {"kind": "dlrm", "bottom": [256, 64], "tower": [256, 128, 64]}


def bench_contest(generator: np.random.Generator, seconds: float, num_rows: int) -> None:
    """Print the figures."""
    shape = BenchJob([(source, 1) for source in SPARSE], DENSE, 64, MODEL, num_rows, num_users=500, num_items=5000)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shape.prepare(Path(folder), generator)
        requests = shape.requests(generator, NUM_REQUESTS, NUM_CANDIDATES)
        replica = RankingProcess(Path(__file__).parents[2], Path(folder), stack)
        answer = pb.RankResponse.FromString(replica.rank(requests[0], timeout=30.0))
        assert len(answer.scores) == NUM_CANDIDATES
        load(replica, requests, seconds / 2)  # caches warm
        rounds = np.array([load(replica, requests, seconds) for _ in range(ROUNDS)])
    rate, p99_s, cpu_rate = np.median(rounds, axis=0).tolist()
    figure("serve.contest_requests_per_s", rate, "1/s")
    figure("serve.contest_p99_ms", p99_s * 1000, "ms")
    figure("serve.contest_requests_per_cpu_s", cpu_rate, "1/s")


def load(replica: RankingProcess, requests: list[bytes], seconds: float) -> tuple[float, float, float]:
    """Return requests a second, p99 of their latency in seconds, and requests a CPU second of replica and client.

    Raises:
        grpc.RpcError: a request failed.
    """
    slots, latencies_s, failures = threading.Semaphore(IN_FLIGHT), [], []

    def settle(sent_s: float, future: grpc.Future) -> None:
        latencies_s.append(time.perf_counter() - sent_s)
        if future.exception() is not None:
            failures.append(future.exception())
        slots.release()

    began_s, began_cpu_s = time.perf_counter(), cpu_seconds(replica.pid) + time.process_time()
    number = 0
    while time.perf_counter() < began_s + seconds:
        slots.acquire()
        sent_s = time.perf_counter()
        replica.rank.future(requests[number % len(requests)], timeout=30.0).add_done_callback(partial(settle, sent_s))
        number += 1
    for _ in range(IN_FLIGHT):
        slots.acquire()
    if failures:
        raise failures[0]
    used_s = cpu_seconds(replica.pid) + time.process_time() - began_cpu_s
    return number / (time.perf_counter() - began_s), float(np.percentile(latencies_s, 99)), number / used_s
