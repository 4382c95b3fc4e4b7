"""Requests a CPU second of a replica process: 1, 100 and 500 candidates, 32 requests in flight, impressions logged."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
from figures import cpu_seconds, figure

from monolith_py.pb import ranking_pb2 as pb

CANDIDATES = (1, 100, 500)
IN_FLIGHT = 32
ROUNDS = 3
_NUM_REQUESTS = 512  # different ones of each size
# Run in a checkout by its own Python, so that each prepares what it can read.
_PREPARE = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path("tests/bench").resolve()))
import bench_serve, numpy
folder, generator = pathlib.Path(sys.argv[1]), numpy.random.default_rng(0)
if not hasattr(bench_serve, "TOML"):
    sys.exit(bench_serve.prepare(folder, generator) and 0)
config = folder / "job.toml"  # an earlier checkout
named = [("user_id", "user_id"), ("item_id", "item_id"), ("tab", "context")]
named += [(name, "user") for name in bench_serve.USER_FEATURES] + [(name, "item") for name in bench_serve.ITEM_FEATURES]
tables = "\\n".join(f'[[features]]\\nname = "{name}"\\nsource = "{source}"' for name, source in named)
config.write_text(bench_serve.TOML.format(folder=folder, features=tables))
bench_serve.prepare(config, generator)
"""

# Prints the number of impressions in the log at each line of its input.
_COUNT = """
import sys
from monolith_py.config import load_job
from monolith_py.io import open_log
try:
    from monolith_py.io.log.topics import Topics
except ImportError:  # before 0.2
    from monolith_py.io.topics import Topics
job = load_job(sys.argv[1])
log, topic = open_log(job.log.url), Topics.of(job.log).impressions
for _ in sys.stdin:
    print(sum(log.end_offset(topic, partition) for partition in range(log.num_partitions(topic))), flush=True)
"""
# Impressions count as lost if no further one comes in this time.
_LOG_S = 5.0


def prepare(checkout: Path, folder: Path) -> None:
    """Write a job, its stored features and its checkpoint to `folder`."""
    subprocess.run([str(checkout / ".venv" / "bin" / "python"), "-c", _PREPARE, str(folder)], cwd=checkout, check=True)


class RankingProcess:
    """The replica of a checkout, with a virtual environment in `.venv`, as a process of its own."""

    def __init__(self, checkout: Path, folder: Path, stack: ExitStack) -> None:
        """Start it on the job of `folder`; `stack` ends it."""
        python = str(checkout / ".venv" / "bin" / "python")
        child = subprocess.Popen([python, "-m", "monolith_py.cli", "serve", "--config", str(folder / "job.toml")], cwd=checkout)
        stack.callback(child.wait)
        stack.callback(child.terminate)
        while not (folder / "port").exists():
            assert child.poll() is None, "the replica did not start"
            time.sleep(0.05)
        self.pid = child.pid
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{(folder / 'port').read_text()}"))
        self.rank = channel.unary_unary("/monolith.v1.Ranking/Rank")
        command = [python, "-c", _COUNT, str(folder / "job.toml")]
        self._counter = subprocess.Popen(command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.callback(self._counter.wait)
        stack.callback(self._counter.terminate)

    def requests_per_cpu_s(self, requests: list[bytes], seconds: float) -> float:
        """Return the rate of requests over `seconds` of load whose impressions are in the log, the time to log them included.

        Raises:
            grpc.RpcError: a request failed.
        """
        before, cpu_s = self.num_logged(), cpu_seconds(self.pid)
        number = self.load(requests, seconds)
        logged, changed_s = 0, time.perf_counter()
        while logged < number and time.perf_counter() < changed_s + _LOG_S:
            time.sleep(0.05)
            now = self.num_logged() - before
            logged, changed_s = now, time.perf_counter() if now > logged else changed_s
        return logged / (cpu_seconds(self.pid) - cpu_s)

    def num_logged(self) -> int:
        """Return the number of impressions in the log."""
        assert self._counter.stdin is not None and self._counter.stdout is not None
        self._counter.stdin.write("\n")
        self._counter.stdin.flush()
        return int(self._counter.stdout.readline())

    def load(self, requests: list[bytes], seconds: float) -> int:
        """Return the number of requests answered in `seconds` of load.

        Raises:
            grpc.RpcError: a request failed.
        """
        slots, failures = threading.Semaphore(IN_FLIGHT), []

        def settle(future: grpc.Future) -> None:
            if future.exception() is not None:
                failures.append(future.exception())
            slots.release()

        number, end_s = 0, time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            slots.acquire()
            self.rank.future(requests[number % len(requests)], timeout=30.0).add_done_callback(settle)
            number += 1
        for _ in range(IN_FLIGHT):
            slots.acquire()
        if failures:
            raise failures[0]
        return number


def make_requests(generator: np.random.Generator, num_candidates: int, num_users: int, num_items: int) -> list[bytes]:
    """Return different requests."""
    requests = []
    for _ in range(_NUM_REQUESTS):
        items = generator.integers(0, num_items, num_candidates).tolist()
        message = pb.RankRequest(user_id=int(generator.integers(num_users)), item_ids=items)
        message.context.sparse.add(name="tab", fids=[1])
        requests.append(message.SerializeToString())
    return requests


def bench_rates(checkouts: Mapping[str, Path], generator: np.random.Generator, seconds: float, num_users: int, num_items: int) -> None:
    """Print the median rate of each checkout in turns, and the ratio of the first to the others."""
    with ExitStack() as stack:
        folders = {name: Path(stack.enter_context(tempfile.TemporaryDirectory())) for name in checkouts}
        for name, checkout in checkouts.items():
            prepare(checkout, folders[name])
        replicas = {name: RankingProcess(checkout, folders[name], stack) for name, checkout in checkouts.items()}
        for num_candidates in CANDIDATES:
            requests = make_requests(generator, num_candidates, num_users, num_items)
            for replica in replicas.values():
                replica.requests_per_cpu_s(requests, seconds / 2)  # caches warm
            rates: dict[str, list[float]] = {name: [] for name in replicas}
            for _ in range(ROUNDS):
                for name, replica in replicas.items():
                    rates[name].append(replica.requests_per_cpu_s(requests, seconds))
            medians = {name: float(np.median(values)) for name, values in rates.items()}
            first, *others = medians
            figure(f"serve.requests_per_cpu_s.{num_candidates}", medians[first], "1/s")
            for other in others:
                figure(f"serve.requests_per_cpu_s.{num_candidates}.{other}", medians[other], "1/s")
                figure(f"serve.requests_per_cpu_s.{num_candidates}_vs_{other}", medians[first] / medians[other], "ratio")
