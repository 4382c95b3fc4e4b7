"""Clients without a call for a while: their pings cost no connection. Takes some ten seconds of idle time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_serving import channel
from monolith_serving.client import RankClient
from monolith_serving.process import make_server

TIMEOUT_S = 60.0
# Three pings come within it, whatever their interval says: gRPC spaces them by a second or two.
IDLE_S = 10.0


class PeersService(ranking_pb2_grpc.RankingServicer):
    """Keeps the address and port of the client of each call."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        self.peers.append(context.peer())
        return ranking_pb2.RankResponse(request_id=message.request_id, scores=[0.5], task_names=["click"], model_version="1.0")


@pytest.mark.timeout(300)
def test_idle_connections_stay_open_for_the_pings_that_the_server_allows(monkeypatch):
    """gRPC's own limits, one ping in two hours, end an idle connection at the client's third ping: GOAWAY, too_many_pings."""
    monkeypatch.setattr(channel, "PING_INTERVAL_MS", 200)
    allowed = [("grpc.http2.min_ping_interval_without_data_ms", 100), channel.SERVER_OPTIONS[1]]
    with ExitStack() as stack:
        clients: list[RankClient] = []
        services: list[PeersService] = []
        for options in (allowed, []):
            monkeypatch.setattr("monolith_serving.process.SERVER_OPTIONS", options)
            service = PeersService()
            server = make_server(service, ServingConfig(), SystemClock())
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda server=server: server.stop(None).wait())
            services.append(service)
            clients.append(stack.enter_context(RankClient(f"127.0.0.1:{port}")))
        while len(set(services[1].peers)) < 2:
            if services[1].peers:
                SystemClock().sleep(IDLE_S)
            for client in clients:
                client.rank(1, [1], timeout_s=TIMEOUT_S)
        assert len(set(services[0].peers)) == 1
