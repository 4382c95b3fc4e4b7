"""Mutated Rank requests against the service in one process: none may crash it, hang, or change the scores of a sound neighbour.

Longer than 300 lines: every field of a request is mutated.

Run: python tests/fuzz/fuzz_rank.py --seconds 60
"""

from __future__ import annotations

import argparse
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import torch

from monolith_py._core import RankedRequest
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.io import MemoryKv
from monolith_py.io.codec import decode_impression, encode_features
from monolith_py.model import build_model
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.sync import DenseState, RowEncoding, pack_rows
from monolith_serving.call_threads import CallThreads
from monolith_serving.core_service import CoreService
from monolith_serving.features.store import FeatureStore
from monolith_serving.interceptors import MAX_DETAILS, StatusInterceptor
from monolith_serving.ranking.core_ranker import CoreRanker
from monolith_serving.ranking.impression_encoder import ImpressionEncoder, ServedRequest
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.replica.dense_model import DenseModel
from monolith_serving.replica.model_state import ModelState
from monolith_serving.replica.table import ReplicaTable
from monolith_serving.service import SERVICE_NAME, RankingService

METHOD = f"/{SERVICE_NAME}/Rank"
NUM_THREADS = 8
# A call that has not ended after this time hangs.
HANG_S = 60.0
NOW_MS = SystemClock().now_ms()
ODD_INTEGERS = (0, 1, -1, 7, 2**31 - 1, 2**31, 2**63 - 1, -(2**63))
ODD_LENGTHS = (0, 1, 2**32 - 1)
ODD_FLOATS = (0.0, -0.0, 1.0, 3e38, -3e38, 1e-45, float("inf"), float("-inf"), float("nan"))
ODD_TEXTS = ("", "tab", "hour", "user_id", "\0", "\n", "x" * 200, "\u20ac" * 60, "undefined", "a" * 5000)
# NaN scores of finite values are the one cause of INTERNAL.
EXPECTED = {"OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "FAILED_PRECONDITION", "INTERNAL"}


def make_job(engine: str) -> JobConfig:
    """Return a job; the core takes none with features that only the request knows of each candidate."""
    sources = {
        "tags": "item",
        "user_id": "user_id",
        "tab": "context",
        "list": "context",
        "item_id": "item_id",
        "city": "user",
    }
    price = []
    if engine == "python":
        sources["place"] = "candidate"
        price = [{"name": "price", "source": "candidate"}]
    return parse_job(
        {
            "name": "fuzz",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": name, "source": source, "dim": 8} for name, source in sources.items()],
            "dense_features": [{"name": "hour", "source": "context", "dim": 2}, *price],
            "tasks": [{"name": "click", "action": "click"}],
            "counters": {"enabled": True, "keys": ["item_id", "tab"]},
            "model": {"tower": [16], "precision": "fp32"},
            "trainer": {"checkpoint_dir": "unused"},
            "serving": {"max_candidates": 200, "max_fids": 500},
        }
    )


class StillReplica:
    """A replica that never changes: random rows for fids 0..99 of every feature."""

    def __init__(self, job: JobConfig) -> None:
        schema, generator = Schema.of(job), np.random.default_rng(3)
        table = ReplicaTable(schema.features, RowEncoding.FP32, torch.device("cpu"))
        for name in schema.sparse_names:
            weights = generator.normal(size=(100, 8)).astype(np.float32)
            table.assign(name, np.arange(100), pack_rows(weights, RowEncoding.FP32), RowEncoding.FP32)
        model = build_model(schema, job.model, 0).eval()
        dense = DenseState.of(model.state_dict())
        self.state = ModelState(table, DenseModel(schema, job.model, dense), dense, (4, 2), 0)

    def require_ready(self) -> None:
        pass

    def staleness_ms(self) -> int:
        return 5

    def event_staleness_ms(self) -> int:
        return 5


class CheckedImpressions:
    """Encodes each impression and decodes it as the joiner does."""

    def __init__(self, job: JobConfig) -> None:
        self._encode = ImpressionEncoder(job)
        self.count = 0

    def put(self, served: ServedRequest | RankedRequest, num_bytes: int) -> None:
        (value,) = self._encode([served])
        assert len(value) <= num_bytes + 1024, (len(value), num_bytes)
        decode_impression(value)
        self.count += 1


class Aborted(Exception):
    """The end of a call with an error."""


class Call:
    """A gRPC call in memory, with a deadline in `remaining_s` seconds; `client` is "cancelled" once its client has left."""

    def __init__(self, remaining_s: float, client: str) -> None:
        self._remaining_s, self.client, self._state = remaining_s, client, self
        self.status, self.details = "OK", ""
        self._callbacks: list[Callable[[], None]] = []

    def time_remaining(self) -> float:
        return self._remaining_s

    def is_active(self) -> bool:
        return self.client != "cancelled"

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return True

    def code(self) -> grpc.StatusCode | None:
        return None if self.status == "OK" else grpc.StatusCode[self.status]

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.status, self.details = code.name, details
        raise Aborted

    def end(self) -> None:
        for callback in self._callbacks:
            callback()


class Service:
    """The ranking service behind its interceptor, called with bytes."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        job, clock = make_job(engine), SystemClock()
        schema, replica, self.impressions = Schema.of(job), StillReplica(job), CheckedImpressions(job)
        kv = MemoryKv()
        column = SparseColumn(np.array([1, 2], np.int64), np.array([2], np.int32))
        for item in range(50):
            kv.write({f"item:{item}": encode_features(FeatureColumns(1, {"tags": column}))})
        store = FeatureStore(kv, schema, LiveCounters.of(job), job.serving, clock)
        ranker = Ranker(job, replica, store, self.impressions, clock)  # type: ignore[arg-type]
        service = RankingService(ranker, replica, schema.tasks, job.serving, clock, EventTimeRule.of(job.log))  # type: ignore[arg-type]
        in_core = {}
        if engine == "core":
            core = CoreRanker(job, replica, store, self.impressions, clock)  # type: ignore[arg-type]
            in_core["Rank"] = CoreService(core, job.serving, clock).in_core
        interceptor = StatusInterceptor(SERVICE_NAME, CallThreads(1, "fuzz"), 1, clock, in_core)
        handler = grpc.unary_unary_rpc_method_handler(service.Rank, pb.RankRequest.FromString, pb.RankResponse.SerializeToString)
        details = type("Details", (), {"method": METHOD})
        self._handle = interceptor.intercept_service(lambda _: handler, details).unary_unary

    def rank(self, value: bytes, remaining_s: float = 9.2e18, client: str = "open") -> tuple[Call, Any]:
        """Return the ended call and its answer, None after an error."""
        call, response = Call(remaining_s, client), None
        with suppress(Aborted):
            response = pb.RankResponse.FromString(self._handle(value, call))
        call.end()
        return call, response


def sound_request(generator: random.Random, engine: str) -> pb.RankRequest:
    """Return a valid request."""
    items = [generator.randrange(60) for _ in range(generator.choice((1, 1, 5, 50, 150)))]
    message = pb.RankRequest(request_id=f"r{generator.randrange(10**9)}", user_id=generator.randrange(99), item_ids=items, time_ms=NOW_MS)
    fids = [generator.randrange(100) for _ in range(generator.choice((0, 1, 3, 400)))]
    message.context.sparse.add(name="list", fids=fids, lengths=[len(fids)])
    message.context.sparse.add(name="tab", fids=[generator.randrange(9)])
    message.context.dense.add(name="hour", values=[generator.random(), generator.random()])
    if engine == "python" and generator.random() < 0.5:
        message.candidate_features.sparse.add(name="place", fids=range(len(items)))
        message.candidate_features.dense.add(name="price", values=[generator.random() for _ in items])
    message.top_k = generator.choice((0, 0, 1, 7))
    return message


def change_field(message: pb.RankRequest, generator: random.Random) -> None:
    """Set one part of a request to an odd value."""
    integer, text = generator.choice(ODD_INTEGERS), generator.choice(ODD_TEXTS)
    context, columns = message.context, message.candidate_features
    changes: list[Callable[[], Any]] = [
        lambda: setattr(message, "request_id", text),
        lambda: setattr(message, "time_ms", generator.choice((*ODD_INTEGERS, NOW_MS + 10**9, NOW_MS // 1000))),
        lambda: setattr(message, "user_id", integer),
        lambda: message.item_ids.extend([integer] * generator.choice((1, 150, 5000))),
        lambda: message.ClearField("item_ids"),
        lambda: message.ClearField("context"),
        lambda: context.sparse.add(name=text, fids=[integer] * generator.choice((0, 1, 501)), lengths=[generator.choice(ODD_LENGTHS)]),
        lambda: context.dense.add(name=text, values=[generator.choice(ODD_FLOATS)] * generator.choice((0, 1, 2, 3000))),
        lambda: [setattr(one, "name", text) for one in context.sparse],
        lambda: setattr(message, "top_k", generator.choice((1, 2**32 - 1))),
        lambda: message.task_names.extend(generator.choice((["click"], [text] * 2000))),
        lambda: setattr(message, "rank_by", generator.choice(("click", text))),
        lambda: setattr(message, "model_version", generator.choice(("4", "4.2", "4.1", text))),
        lambda: setattr(message, "max_staleness_ms", integer),
        lambda: setattr(message, "explain", True),
        lambda: message.return_features.extend(generator.choice((["list", "hour"], ["item_id"], [text] * 2000))),
        lambda: columns.sparse.add(name="place", fids=[integer] * 5, lengths=[5, *[0] * (len(message.item_ids) - 1)]),
        lambda: columns.dense.add(name="price", values=[generator.choice(ODD_FLOATS)] * len(message.item_ids)),
        lambda: message.ClearField("candidate_features"),
        lambda: [one.lengths.append(generator.choice(ODD_LENGTHS)) for one in context.sparse],
        lambda: [one.values.__setitem__(0, generator.choice(ODD_FLOATS)) for one in context.dense if one.values],
        lambda: [context.sparse.add(name=f"f{number}") for number in range(generator.choice((1, 2000)))],
    ]
    generator.choice(changes)()


def mutate_bytes(value: bytes, generator: random.Random) -> bytes:
    """Return `value` with some bytes flipped, cut out, doubled or replaced."""
    data = bytearray(value)
    for _ in range(generator.choice((1, 1, 2, 8))):
        if not data:
            break
        at, kind = generator.randrange(len(data)), generator.randrange(5)
        if kind == 0:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del data[at : at + generator.randrange(1, 20)]
        elif kind == 2:
            data[at:at] = data[at : at + generator.randrange(1, 50)]
        elif kind == 3:
            data[at] = generator.choice((0x00, 0x7F, 0x80, 0xFF, 0x0B, 0x22))
        else:
            del data[at:]
    return bytes(data)


def mutated_request(generator: random.Random, engine: str) -> bytes:
    """Return the bytes of a request with odd fields, damaged bytes, or both."""
    message = sound_request(generator, engine)
    kind = generator.randrange(4)
    for _ in range(0 if kind == 0 else generator.choice((1, 1, 2, 4))):
        change_field(message, generator)
    value: bytes = message.SerializeToString()
    return mutate_bytes(value, generator) if kind in (0, 1) else value


class Run:
    """One run over several threads: every eighth request is a sound neighbour whose scores are known."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service, self._seed = service, seed
        generator = random.Random(seed)
        self._neighbours = [sound_request(generator, service.engine).SerializeToString() for _ in range(16)]
        self._expected = [np.array(service.rank(value, 30.0)[1].scores) for value in self._neighbours]
        self._stop = threading.Event()
        self.codes: Counter[str] = Counter()
        self.num_neighbours = 0

    def work(self, thread: int, max_requests: int) -> None:
        """Send requests until the end of the run."""
        generator = random.Random(f"{self._seed}-{thread}")
        for number in range(max_requests):
            if self._stop.is_set():
                return
            if number % 8 == 0:
                self._check_neighbour(generator.randrange(len(self._neighbours)))
            else:
                self._send(generator)

    def stop(self) -> None:
        self._stop.set()

    def _send(self, generator: random.Random) -> None:
        value = mutated_request(generator, self._service.engine)
        remaining_s = generator.choice((9.2e18, 30.0, 0.2, 1e-3, 1e-5, 0.0))
        call, _ = self._service.rank(value, remaining_s, generator.choice(("open", "open", "open", "cancelled")))
        self.codes[call.status] += 1
        assert call.status in EXPECTED, (call.status, call.details, value)
        assert (len(call.details) <= MAX_DETAILS and call.details.isascii() and call.details.isprintable()) or not call.details

    def _check_neighbour(self, index: int) -> None:
        call, response = self._service.rank(self._neighbours[index], HANG_S)
        assert call.status == "OK", (call.status, call.details)
        np.testing.assert_allclose(np.array(response.scores), self._expected[index], rtol=1e-4)
        self.num_neighbours += 1


def main(seconds: float, seed: int = 1, max_requests: int = 1 << 60, engine: str = "core") -> Counter[str]:
    """Fuzz for `seconds` or `max_requests` a thread; print and return the number of requests by code. `engine`: "core" or "python".

    Raises:
        AssertionError: a request ended with another code, a text that is not for callers, or a neighbour was hurt.
        TimeoutError: a call hangs.
    """
    service = Service(engine)
    run = Run(service, seed)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        timer = threading.Timer(seconds, run.stop)
        timer.start()
        futures = [pool.submit(run.work, thread, max_requests) for thread in range(NUM_THREADS)]
        for future in futures:
            future.add_done_callback(lambda done: run.stop() if done.exception() else None)
        for future in futures:
            future.result(timeout=seconds + HANG_S)
        timer.cancel()
    print(f"fuzz_rank: {sum(run.codes.values())} mutated requests {dict(run.codes)}")
    print(f"fuzz_rank: {run.num_neighbours} sound neighbours, {service.impressions.count} impressions")
    return run.codes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("core", "python"), default="core")
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.seed, engine=arguments.engine)
