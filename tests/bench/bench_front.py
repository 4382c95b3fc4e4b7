"""Requests a CPU second of a replica behind each of its fronts, under load from a C++ client: 1, 100 and 500 candidates, 32 in flight.

36 features of dim 16, two tasks, int8 rows, impressions logged. Needs libgrpc++ (Debian: libgrpc++-dev, pkg-config) and g++.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from bench_serve import NUM_ITEMS, NUM_USERS
from figures import cpu_seconds, figure
from serve_rate import CANDIDATES, IN_FLIGHT, RankingProcess, make_requests, prepare

from monolith_py.config import load_job
from monolith_py.io import open_log
from monolith_py.io.log.topics import Topics
from monolith_serving.front_cpp import library

HERE = Path(__file__).resolve().parents[2]


class Loaded:
    """A replica with a client in C++."""

    def __init__(self, checkout: Path, settings: str, client: Path, stack: ExitStack) -> None:
        """Start the replica of a checkout with some settings of serving."""
        self._client, self._folder = client, Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(checkout, self._folder)
        job = self._folder / "job.toml"
        job.write_text(job.read_text() + settings)
        self._process = RankingProcess(checkout, self._folder, stack)
        self.num_answered = 0

    def requests_per_cpu_s(self, requests: list[bytes], seconds: float) -> float:
        """Return the rate over `seconds` of load. Raises `ValueError` if a request fails."""
        path = self._folder / "requests"
        path.write_bytes(b"".join(struct.pack("<I", len(request)) + request for request in requests))
        address = f"127.0.0.1:{(self._folder / 'port').read_text()}"
        begin_s = cpu_seconds(self._process.pid)
        command = [str(self._client), address, str(path), str(IN_FLIGHT), str(seconds)]
        answered, failed = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
        if failed:
            raise ValueError(f"requests must be answered, got {failed} failures beside {answered} answers")
        self.num_answered += answered
        return answered / (cpu_seconds(self._process.pid) - begin_s)

    def num_logged(self) -> int:
        """Return the number of impressions in the log."""
        job = load_job(self._folder / "job.toml")
        log, topic = open_log(job.log.url), Topics.of(job.log).impressions
        count = sum(log.end_offset(topic, partition) for partition in range(log.num_partitions(topic)))
        log.close()
        return count


def build_client(folder: Path) -> Path:
    """Return the client, compiled."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], check=True, capture_output=True, text=True).stdout.split()
    source, client = HERE / "tests" / "bench" / "rank_load.cpp", folder / "rank_load"
    subprocess.run(["g++", "-O2", "-std=c++20", str(source), "-o", str(client), *flags], check=True)
    return client


def main() -> int:
    """Print the figures; return 1 without libgrpc++."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load test")
    parser.add_argument("--rounds", type=int, default=3, help="tests of each front, in turns; the median counts")
    parser.add_argument("--base", type=Path, help="checkout of an earlier commit, built in its .venv, to compare with")
    arguments = parser.parse_args()
    if not library().exists():
        print("no figures: this build has no C++ front, as it found no libgrpc++ (Debian: libgrpc++-dev, pkg-config)")
        return 1
    generator = np.random.default_rng(0)
    with ExitStack() as stack:
        client = build_client(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        fronts = {"cpp_front": Loaded(HERE, 'front = "cpp"\n', client, stack), "python_front": Loaded(HERE, "", client, stack)}
        if arguments.base is not None:
            fronts["base"] = Loaded(arguments.base.resolve(), "", client, stack)
        for num_candidates in CANDIDATES:
            requests = make_requests(generator, num_candidates, NUM_USERS, NUM_ITEMS)
            for front in fronts.values():
                front.requests_per_cpu_s(requests, arguments.seconds / 2)  # caches warm
            rates: dict[str, list[float]] = {name: [] for name in fronts}
            for _ in range(arguments.rounds):
                for name, front in fronts.items():
                    rates[name].append(front.requests_per_cpu_s(requests, arguments.seconds))
            medians = {name: float(np.median(values)) for name, values in rates.items()}
            for name, rate in medians.items():
                figure(f"serve.requests_per_cpu_s.{num_candidates}.{name}", rate, "1/s")
            for name in [*medians][1:]:
                figure(f"serve.requests_per_cpu_s.{num_candidates}.cpp_front_vs_{name}", medians["cpp_front"] / medians[name], "ratio")
        front = fronts["cpp_front"]
        figure("serve.cpp_front_impressions_logged", front.num_logged() / front.num_answered, "ratio")
    return 0


if __name__ == "__main__":
    sys.exit(main())
