"""Requests a CPU second beside FastAPI and LitServe with the same model: 1, 100 and 500 candidates, 32 requests in flight.

The model of `bench_serve`: 36 features of dim 16, DeepFM with tower 256-128-64. A replica takes gRPC and logs impressions. The peers hold
weights in fp32 and features as row numbers in memory, take JSON over HTTP/1.1 and log nothing. A turn of the replica ends when its
impressions are in the log. All servers run in turns on one core, the client on the others; CPU time is that of the server's process and
its children.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_serve import ITEM_FEATURES, NUM_FIDS, NUM_ITEMS, NUM_USERS, USER_FEATURES
from figures import cpu_seconds, figure, tree_cpu_seconds
from serve_rate import CANDIDATES, IN_FLIGHT, ROUNDS, RankingProcess, make_requests, prepare

from monolith_py.clock import SystemClock
from monolith_py.config import LogConfig, load_job
from monolith_py.io import open_kv, open_log
from monolith_py.io.codec import decode_features
from monolith_py.io.log.topics import Topics
from monolith_py.model.batch import Batch
from monolith_py.pb import ranking_pb2 as pb
from monolith_serving.replica.replica import Replica

PACKAGES = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "litserve==0.2.19")
PEERS = {"fastapi": ["http_fastapi.py"], "litserve": ["http_litserve.py", "1"], "litserve_batch": ["http_litserve.py", "32"]}
_START_S = 120.0
_LOG_S = 3.0  # without another impression in the log
# Scores of int8 rows in a bf16 tower beside the same rows in an fp32 tower.
_MOST_APART = 0.01


class HttpProcess:
    """A peer as a process of its own."""

    def __init__(self, python: Path, server: str, folder: Path, stack: ExitStack) -> None:
        """Start it with the model of `folder`; `stack` ends it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        program, *options = PEERS[server]
        command = [python, Path(__file__).with_name(program), str(self._port), folder, *options]
        child = subprocess.Popen(command, start_new_session=True)
        stack.callback(end_group, child)
        self.pid = child.pid
        end_s = time.perf_counter() + _START_S
        while not self._answers():
            assert child.poll() is None and time.perf_counter() < end_s, f"{server} did not start"
            time.sleep(0.1)

    def rank(self, body: bytes) -> np.ndarray:
        """Return the scores of one request, (n, tasks)."""
        return np.array(json.loads(asyncio.run(self._ask_once(body)))["scores"])

    def requests_per_cpu_s(self, bodies: Sequence[bytes], seconds: float) -> float:
        """Return the rate over `seconds` of load."""
        cpu_s = tree_cpu_seconds(self.pid)
        number = asyncio.run(self._load(bodies, seconds))
        return number / (tree_cpu_seconds(self.pid) - cpu_s)

    def _answers(self) -> bool:
        body = json.dumps({"user_id": 0, "item_ids": [0]}).encode()
        try:
            self.rank(body)
        except (OSError, asyncio.IncompleteReadError):
            return False
        return True

    async def _ask_once(self, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            return await ask(reader, writer, body)
        finally:
            writer.close()

    async def _load(self, bodies: Sequence[bytes], seconds: float) -> int:
        end_s, places = time.perf_counter() + seconds, iter(range(sys.maxsize))

        async def connection() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            done = 0
            while time.perf_counter() < end_s:
                await ask(reader, writer, bodies[next(places) % len(bodies)])
                done += 1
            writer.close()
            return done

        return sum(await asyncio.gather(*(connection() for _ in range(IN_FLIGHT))))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bytes:
    """Return the body of the answer to one request on a connection that stays open.

    Raises:
        ConnectionError: the server is not ready yet.
    """
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    if answer.startswith(b"http/1.1 503"):
        raise ConnectionError(answer)
    assert answer.startswith(b"http/1.1 200"), answer
    return await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0]))


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a process and its children."""
    os.killpg(child.pid, 9)
    child.wait()


def make_python(folder: Path) -> Path:
    """Return the Python of a new virtual environment with the peers; torch and numpy are those of this one."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


def write_model(folder: Path) -> None:
    """Write `model.npz` with the weights and features of the replica's job in `folder`."""
    job = load_job(folder / "job.toml")
    replica = Replica(job, None, torch.device("cpu"), SystemClock())
    assert replica.load_newest()
    state, names = replica.state, tuple(feature.name for feature in job.features)
    fids = np.tile(np.arange(NUM_FIDS), len(names))
    batch = Batch(NUM_FIDS, names, fids, np.ones(len(fids), np.int32), np.zeros((NUM_FIDS, 0), np.float32))
    rows = state.table.lookup(batch).view(NUM_FIDS, len(names), -1).transpose(0, 1).reshape(len(fids), -1)
    model = state.model.in_torch
    layers = [*model.tower.layers, model.head]
    arrays = {f"weight{place}": layer.weight for place, layer in enumerate(layers)}
    arrays |= {f"bias{place}": layer.bias for place, layer in enumerate(layers)}
    start = {name: place * NUM_FIDS for place, name in enumerate(names)}

    def numbers(kind: str, count: int, stored: Sequence[str], fixed: Sequence[int]) -> np.ndarray:
        features = [decode_features(value).sparse for value in kv.get_many([f"{kind}:{entity}" for entity in range(count)])]
        return np.array(
            [
                [start[f"{kind}_id"] + entity, *fixed, *(start[name] + int(columns[name].fids[0]) for name in stored)]
                for entity, columns in enumerate(features)
            ]
        )

    with closing(open_kv(job.kv)) as kv:
        users = numbers("user", NUM_USERS, USER_FEATURES, [start["tab"] + 1])
        items = numbers("item", NUM_ITEMS, ITEM_FEATURES, [])
    # The tower reads rows in the order of the peers: users' features, then items'.
    order = [*users[0] // NUM_FIDS, *items[0] // NUM_FIDS]
    dim = rows.shape[1]
    arrays["weight0"] = layers[0].weight.view(-1, len(names), dim)[:, order].reshape(len(layers[0].weight), -1)
    arrays |= {"rows": rows, "scales": model.scales}
    plain = {name: value.detach().float().numpy() for name, value in arrays.items()}
    np.savez(folder / "model.npz", users=users, items=items, num_layers=len(layers), **plain)


class LoggedRate:
    """Rate of a replica with its impressions: the time to log them counts, a request without one in the log does not."""

    def __init__(self, replica: RankingProcess, config: LogConfig) -> None:
        self._replica, self._log, self._topic = replica, open_log(config), Topics.of(config).impressions
        self._num_sent = self._num_logged = 0

    @property
    def logged_share(self) -> float:
        """Return the share of all requests whose impression is in the log."""
        return self._num_logged / self._num_sent

    def requests_per_cpu_s(self, requests: list[bytes], seconds: float) -> float:
        """Return the rate over `seconds` of load."""
        before, cpu_s = self._count(), cpu_seconds(self._replica.pid)
        number = self._replica.load(requests, seconds)
        logged, changed_s = 0, time.perf_counter()
        while logged < number and time.perf_counter() < changed_s + _LOG_S:  # what was lost never comes
            time.sleep(0.05)
            now = self._count() - before
            logged, changed_s = now, time.perf_counter() if now > logged else changed_s
        self._num_sent, self._num_logged = self._num_sent + number, self._num_logged + logged
        return logged / (cpu_seconds(self._replica.pid) - cpu_s)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _count(self) -> int:
        return sum(self._log.end_offset(self._topic, part) for part in range(self._log.num_partitions(self._topic)))


@contextmanager
def one_core() -> Iterator[None]:
    """Start processes on the first core; afterwards this one takes the others, if there are any."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores[1:] or cores)


def bench_http(generator: np.random.Generator, seconds: float) -> None:
    """Print the figures."""
    here = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        prepare(here, folder)
        with (folder / "job.toml").open("a") as job:  # its last section is [serving]; the queue of a turn fits, so that none is lost
            job.write(f"impression_queue_bytes = {1 << 30}\n")
        write_model(folder)
        python = make_python(folder / "venv")
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        with one_core():
            ours = RankingProcess(here, folder, stack)
            peers = {peer: HttpProcess(python, peer, folder, stack) for peer in PEERS}
        logged = stack.enter_context(closing(LoggedRate(ours, load_job(folder / "job.toml").log)))
        for num_candidates in CANDIDATES:
            requests = make_requests(generator, num_candidates, NUM_USERS, NUM_ITEMS)
            bodies = [json_of(request) for request in requests]
            check_scores(ours, peers, requests[0], bodies[0])
            loads: dict[str, Callable[[float], float]] = {"ours": partial(logged.requests_per_cpu_s, requests)}
            loads |= {peer: partial(process.requests_per_cpu_s, bodies) for peer, process in peers.items()}
            compare(num_candidates, loads, seconds)
        figure("serve.impressions_logged_beside_peers", logged.logged_share, "share")


def compare(num_candidates: int, loads: Mapping[str, Callable[[float], float]], seconds: float) -> None:
    """Print the median rate of each server, in turns, and ours over each peer; over the better of LitServe's two."""
    for load in loads.values():
        load(seconds / 2)  # caches warm
    rates: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(ROUNDS):
        for name, load in loads.items():
            rates[name].append(load(seconds))
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    for name, rate in medians.items():
        figure(f"serve.requests_per_cpu_s.{num_candidates}_beside_peers.{name}", rate, "1/s")
    litserve = max(medians["litserve"], medians["litserve_batch"])
    for peer, rate in (("fastapi", medians["fastapi"]), ("litserve", litserve)):
        figure(f"serve.requests_per_cpu_s.{num_candidates}_vs_{peer}", medians["ours"] / rate, "ratio")


def json_of(request: bytes) -> bytes:
    """Return the body of a peer's request from the bytes of ours."""
    message = pb.RankRequest.FromString(request)
    return json.dumps({"user_id": message.user_id, "item_ids": list(message.item_ids)}).encode()


def check_scores(ours: RankingProcess, peers: Mapping[str, HttpProcess], request: bytes, body: bytes) -> None:
    """Check that all servers have the same model."""
    answer = pb.RankResponse.FromString(ours.rank(request, timeout=30.0))
    scores = np.array(answer.scores).reshape(-1, len(answer.task_names))
    for name, peer in peers.items():
        apart = np.abs(peer.rank(body) - scores).max()
        assert apart < _MOST_APART, (name, apart)
