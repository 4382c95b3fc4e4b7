"""Settings of the serving process: its health by staleness, its threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import grpc
import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_serving.process import is_healthy, make_server


@dataclass
class AgedReplica:
    is_ready: bool = True
    is_fresh: bool = True
    age_ms: int = 0

    def staleness_ms(self) -> int:
        return self.age_ms


@pytest.mark.parametrize(
    ("replica", "max_staleness_s", "expected"),
    [
        (AgedReplica(age_ms=2_000), 2.0, True),
        (AgedReplica(age_ms=2_001), 2.0, False),
        (AgedReplica(age_ms=10**9), 0.0, True),
        (AgedReplica(is_ready=False), 0.0, False),
        (AgedReplica(is_fresh=False), 0.0, False),
        (AgedReplica(is_fresh=False), 2.0, False),
    ],
)
def test_a_replica_is_healthy_once_loaded_while_it_keeps_up_and_its_newest_delta_is_young_enough(replica, max_staleness_s, expected):
    assert is_healthy(replica, ServingConfig(max_staleness_s=max_staleness_s)) is expected


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
