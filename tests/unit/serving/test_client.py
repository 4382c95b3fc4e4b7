"""The client over genuine gRPC servers: tries, balancing, pings of idle connections, addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.errors import ConfigError, NotReady, Overloaded, RankFailed, WireError
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_serving import channel
from monolith_serving.channel import ClientSecurity, target_of
from monolith_serving.client import RankClient
from monolith_serving.process import make_server

TIMEOUT_S = 60.0


class ScriptedService(ranking_pb2_grpc.RankingServicer):
    """Ends its first calls with `errors`, and answers later ones; keeps request ids, metadata and peers."""

    def __init__(self, errors: Sequence[type[Exception]] = ()) -> None:
        self.errors, self.request_ids, self.metadata, self.peers = list(errors), [], [], []

    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        self.request_ids.append(message.request_id)
        self.peers.append(context.peer())
        self.metadata.append(dict(context.invocation_metadata()))
        if self.errors:
            raise self.errors.pop(0)("as the test says")
        return ranking_pb2.RankResponse(request_id=message.request_id, scores=[0.5], task_names=["click"], model_version="1.0")


@pytest.fixture
def start() -> Iterator:
    """Return a function that serves a service, SERVING, and returns server and address."""
    with ExitStack() as stack:

        def serve(service) -> tuple:
            server = make_server(service, ServingConfig(), SystemClock())
            servicer = health.HealthServicer()
            servicer.set(channel.HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            service.health = servicer
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            return server, f"127.0.0.1:{port}"

        yield serve


@pytest.mark.parametrize("errors", [[NotReady], [Overloaded, NotReady, Overloaded]])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_another_try_may_answer_is_tried_again_with_one_id(start, errors, is_async):
    service = ScriptedService(errors)
    with RankClient(start(service)[1]) as client:
        call = client.rank_async(1, [1], timeout_s=TIMEOUT_S).result if is_async else lambda: client.rank(1, [1], timeout_s=TIMEOUT_S)
        result = call()
    assert len(service.request_ids) == len(errors) + 1 and set(service.request_ids) == {result.request_id}


def test_an_answer_in_another_form_is_an_error_of_both_calls(start):
    class OtherService(ScriptedService):
        def Rank(self, message, context):  # noqa: N802 (the name in the proto)
            return ranking_pb2.RankResponse(scores=[0.5, 0.25], task_names=())

    with RankClient(start(OtherService())[1]) as client:
        with pytest.raises(ValueError, match="reshape"):
            client.rank(1, [1], timeout_s=TIMEOUT_S)
        assert isinstance(client.rank_async(1, [1], timeout_s=TIMEOUT_S).exception(TIMEOUT_S), ValueError)


def test_a_refused_request_is_not_tried_again(start):
    service = ScriptedService([WireError])
    with RankClient(start(service)[1]) as client, pytest.raises(RankFailed, match="INVALID_ARGUMENT: as the test says"):
        client.rank(1, [1], timeout_s=TIMEOUT_S)
    assert len(service.request_ids) == 1


def test_tries_end_after_five(start):
    service = ScriptedService([Overloaded] * 20)
    with RankClient(start(service)[1]) as client, pytest.raises(RankFailed, match="RESOURCE_EXHAUSTED"):
        client.rank(1, [1], timeout_s=TIMEOUT_S)
    assert len(service.request_ids) == 5


def test_each_call_without_an_id_gets_its_own(start):
    service = ScriptedService()
    with RankClient(start(service)[1]) as client:
        ids = {client.rank(1, [1], timeout_s=TIMEOUT_S).request_id for _ in range(3)}
    assert len(ids) == 3 and "" not in ids


def test_calls_go_to_all_replicas_in_turn_and_none_fails_when_one_stops(start):
    services = [ScriptedService(), ScriptedService()]
    started = [start(service) for service in services]
    with RankClient([address for _, address in started]) as client:
        while not all(service.request_ids for service in services):
            client.rank(1, [1], timeout_s=TIMEOUT_S)
        started[0][0].stop(None).wait()
        before = len(services[1].request_ids)
        for _ in range(20):
            client.rank(1, [1], timeout_s=TIMEOUT_S)
        assert len(services[1].request_ids) - before == 20


def test_a_replica_that_says_not_serving_gets_no_call_while_another_serves(start):
    services = [ScriptedService(), ScriptedService()]
    with RankClient([start(service)[1] for service in services]) as client:
        while not all(service.request_ids for service in services):
            client.rank(1, [1], timeout_s=TIMEOUT_S)
        services[0].health.set(channel.HEALTH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        last = 0
        while len(services[0].request_ids) != last:  # until the client knows
            last = len(services[0].request_ids)
            for _ in range(20):
                client.rank(1, [1], timeout_s=TIMEOUT_S)
        assert len(services[1].request_ids) >= 20


def test_a_token_goes_with_each_call(start):
    service = ScriptedService()
    with RankClient(start(service)[1], security=ClientSecurity(token="abc")) as client:
        client.rank(1, [1], timeout_s=TIMEOUT_S)
        client.rank_async(1, [1], timeout_s=TIMEOUT_S).result()
    assert [metadata["authorization"] for metadata in service.metadata] == ["Bearer abc"] * 2


def test_the_client_pings_no_more_often_than_the_server_allows():
    assert channel.PING_INTERVAL_MS >= 2 * channel.ALLOWED_PING_INTERVAL_MS
    assert ("grpc.keepalive_permit_without_calls", 1) in channel.SERVER_OPTIONS


def test_several_names_are_looked_up_and_a_single_one_is_left_to_grpc():
    assert target_of(["replicas.example:50051"]) == "replicas.example:50051"
    assert target_of(["[::1]:50051", "[::2]:50052"]) == "ipv6:[::1]:50051,[::2]:50052"
    assert target_of(["localhost:1", "127.0.0.2:2"]) == "ipv4:127.0.0.1:1,127.0.0.2:2"


@pytest.mark.parametrize(
    ("addresses", "rule"),
    [
        (["127.0.0.1", "127.0.0.2:1"], "addresses must be host:port, got '127.0.0.1'"),
        (["127.0.0.1:1", "[::1]:1"], "addresses must be replicas of one family of IP"),
        ([], "addresses must be replicas of one family of IP, got []"),
    ],
)
def test_addresses_of_no_use_are_refused(addresses, rule):
    with pytest.raises(ConfigError) as caught:
        target_of(addresses)
    assert rule in str(caught.value)


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(ConfigError, match="must come together"):
        RankClient("127.0.0.1:1", security=ClientSecurity(tls=True, certificate_file="client.pem"))
    with pytest.raises(ConfigError, match=r"must be a readable PEM file, got 'absent\.pem'"):
        RankClient("127.0.0.1:1", security=ClientSecurity(tls=True, ca_file="absent.pem"))
