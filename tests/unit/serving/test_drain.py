"""A stop of the serving process: NOT_SERVING first, requests of the drain time answered, those in progress finished."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_py.process import StopSignal
from monolith_serving.process import _serve
from tests.fronts import FRONTS, FreshReplica, front_of

TIMEOUT_S = 60.0
DRAIN_S = 7.0


class GatedService(ranking_pb2_grpc.RankingServicer):
    """Holds the request "held" until the gate opens, and answers others at once."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Event()

    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        if message.request_id == "held":
            self.entered.set()
            self.gate.wait(TIMEOUT_S)
        return ranking_pb2.RankResponse(request_id=message.request_id)


class DrainClock(SystemClock):
    """A clock whose sleep lasts until the test lets it end."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self.asleep, self.wake = threading.Event(), threading.Event()

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.asleep.set()
        self.wake.wait(TIMEOUT_S)


class Served:
    """A server in a thread, with a client."""

    def __init__(self, front: str, port_file: Path) -> None:
        self.service, self.stop, self.clock = GatedService(), StopSignal(), DrainClock()
        config = ServingConfig(port=0, drain_s=DRAIN_S, port_file=str(port_file))
        arguments = (front_of(front, self.service, config), FreshReplica(), config, self.stop, self.clock)
        self.thread = threading.Thread(target=_serve, args=arguments)
        self.thread.start()
        while not port_file.exists():
            threading.Event().wait(0.01)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port_file.read_text()}")

    def rank(self, request_id: str) -> grpc.Future:
        stub = ranking_pb2_grpc.RankingStub(self.channel)
        return stub.Rank.future(ranking_pb2.RankRequest(request_id=request_id), timeout=TIMEOUT_S)

    def status(self) -> int:
        return health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status

    def close(self) -> None:
        for event in (self.service.gate, self.clock.wake):
            event.set()
        self.stop.set()
        self.thread.join(TIMEOUT_S)
        self.channel.close()


@pytest.fixture(params=FRONTS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    served = Served(request.param, tmp_path / "port")
    yield served
    served.close()


def test_a_replica_that_stops_is_not_serving_first_and_answers_through_its_drain_time(served):
    """SIGTERM cancelled up to 6 of 8 requests on their way: serving.md, row 25."""
    while served.status() != health_pb2.HealthCheckResponse.SERVING:
        threading.Event().wait(0.01)
    served.stop.set()
    assert served.clock.asleep.wait(TIMEOUT_S) and served.clock.slept_s == [DRAIN_S]
    assert served.status() == health_pb2.HealthCheckResponse.NOT_SERVING
    assert served.rank("on its way").result().request_id == "on its way"


def test_a_request_in_progress_at_the_end_of_the_drain_time_is_finished(served):
    held = served.rank("held")
    assert served.service.entered.wait(TIMEOUT_S)
    served.stop.set()
    served.clock.wake.set()
    while (error := served.rank("new").exception()) is None:
        threading.Event().wait(0.01)
    # A call that was sent before the client saw the server stop is CANCELLED.
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    served.service.gate.set()
    assert held.result().request_id == "held"
    served.thread.join(TIMEOUT_S)
    assert not served.thread.is_alive()
