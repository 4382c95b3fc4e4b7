"""Processes of `monolith` on the jobs of a bench, and requests to a replica at a steady rate."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from monolith_py.config import load_job
from monolith_serving.client import RankClient


@contextmanager
def replicas(configs: Sequence[Path]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run replicas, which can rank inside the block."""
    ports = [Path(load_job(config).serving.port_file or "") for config in configs]
    for port in ports:
        port.unlink(missing_ok=True)
    with running([["serve", "--config", str(config)] for config in configs]) as children:
        while not all(port.exists() for port in ports):
            assert all(child.poll() is None for child in children), "a replica did not start"
            time.sleep(0.01)
        yield children


@contextmanager
def running(commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run commands of `monolith` and end them after the block."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            children.append(subprocess.Popen([sys.executable, "-m", "monolith_py.cli", *command], stderr=subprocess.DEVNULL))
        yield children
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


def address_of(config: Path) -> str:
    """Return the address of the replica of a job."""
    return f"127.0.0.1:{Path(load_job(config).serving.port_file or '').read_text()}"


def rank_for(client: RankClient, seconds: float, num_fids: int, *, per_s: float = 60.0, log_impression: bool = True) -> list[float]:
    """Return the seconds of each ranking of 100 candidates, begun `per_s` times a second whatever the one before took."""
    rng, found = np.random.default_rng(1), []
    began_s = time.perf_counter()
    for number in range(int(per_s * seconds)):
        time.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
        items = rng.integers(1, num_fids, 100).tolist()
        call_s = time.perf_counter()
        client.rank(int(rng.integers(1, num_fids)), items, timeout_s=10.0, log_impression=log_impression)
        found.append(time.perf_counter() - call_s)
    return found


def p99_ratio(turns: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Return the median over the turns of p99 of the second over p99 of the first: a burst of other work spoils one turn, not all."""
    return float(np.median([np.percentile(busy, 99) / np.percentile(idle, 99) for idle, busy in turns]))


def metric(port: int, name: str) -> float:
    """Return the sum of a metric's samples in a process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))
