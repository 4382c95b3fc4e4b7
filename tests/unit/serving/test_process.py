"""Settings of the serving process: its health by staleness, its threads."""

from __future__ import annotations

import threading

import grpc
import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_serving.process import is_healthy, make_server


class AgedReplica:
    def __init__(self, is_ready: bool, staleness_ms: int, *, is_held: bool = False) -> None:
        self.is_ready, self._staleness_ms, self.is_held = is_ready, staleness_ms, is_held

    def staleness_ms(self) -> int:
        return self._staleness_ms


@pytest.mark.parametrize(
    ("is_ready", "staleness_ms", "max_staleness_s", "expected"),
    [
        (True, 2_000, 2.0, True),
        (True, 2_001, 2.0, False),
        (True, 10**9, 0.0, True),
        (False, 0, 0.0, False),
        (False, 0, 2.0, False),
    ],
)
def test_a_replica_is_healthy_once_loaded_and_while_its_newest_delta_is_young_enough(is_ready, staleness_ms, max_staleness_s, expected):
    assert is_healthy(AgedReplica(is_ready, staleness_ms), ServingConfig(max_staleness_s=max_staleness_s)) is expected


def test_a_replica_whose_updates_the_guard_holds_stays_healthy() -> None:
    assert is_healthy(AgedReplica(True, 10**9, is_held=True), ServingConfig(max_staleness_s=2.0))


class GatedService(ranking_pb2_grpc.RankingServicer):
    """Holds every call until the gate opens."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)

    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        self.entered.release()
        self.gate.wait()
        return ranking_pb2.RankResponse(request_id=message.request_id)


@pytest.mark.parametrize("grpc_threads", [1, 3])
def test_as_many_requests_are_in_progress_as_there_are_threads(grpc_threads):
    service = GatedService()
    server = make_server(service, ServingConfig(grpc_threads=grpc_threads), SystemClock())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = ranking_pb2_grpc.RankingStub(channel)
        calls = [stub.Rank.future(ranking_pb2.RankRequest(request_id=str(number)), timeout=30) for number in range(grpc_threads + 2)]
        for _ in range(grpc_threads):
            assert service.entered.acquire(timeout=30)
        assert not service.entered.acquire(timeout=0.2), "one more than there are threads"
        service.gate.set()
        assert [call.result().request_id for call in calls] == [str(number) for number in range(grpc_threads + 2)]
    server.stop(None).wait()
