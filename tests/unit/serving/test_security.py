"""TLS, client certificates and tokens of a replica, with genuine certificates and connections."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from monolith_py.cli import app
from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.errors import ConfigError, RankFailed
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_py.process import StopSignal
from monolith_serving.channel import ClientSecurity
from monolith_serving.client import RankClient
from monolith_serving.process import _serve, make_server
from monolith_serving.security import ServerCertificates
from tests.certificates import Authority
from tests.fronts import FRONTS, FreshReplica, front_of

TIMEOUT_S = 60.0
TOKENS = ["first-token-of-two", "second-token-of-two"]
SERVING = health_pb2.HealthCheckResponse.SERVING


class EchoService(ranking_pb2_grpc.RankingServicer):
    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        scores = [0.5] * len(message.item_ids)
        return ranking_pb2.RankResponse(request_id=message.request_id, scores=scores, task_names=["click"], model_version="1.0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "strange authority")


@pytest.fixture(scope="module")
def server_files(authority) -> dict[str, str]:
    certificate, key = authority.issue("server", "IP:127.0.0.1", "DNS:replica.example")
    return {"certificate_file": str(certificate), "key_file": str(key)}


@pytest.fixture(params=FRONTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def serve(kind: str, tmp_path: Path) -> Iterator:
    """Return a function that serves with some security settings and returns the address."""
    with ExitStack() as stack:

        def start(security: dict, **settings) -> str:
            port_file = tmp_path / "port"
            config = ServingConfig(
                port=0, drain_s=0.0, port_file=str(port_file), security=security, reflection=kind == "python", **settings
            )
            stop = StopSignal()
            front = front_of(kind, EchoService(), config)
            thread = threading.Thread(target=_serve, args=(front, FreshReplica(), config, stop, SystemClock()))
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
            while not port_file.exists():
                SystemClock().sleep(0.01)
            return f"127.0.0.1:{port_file.read_text()}"

        yield start


def rank(address: str, security: ClientSecurity | None = None) -> str:
    """Return "OK" or the code of a failed call."""
    with RankClient(address, security=security) as client:
        try:
            client.rank(1, [1, 2], timeout_s=TIMEOUT_S)
        except RankFailed as error:
            return error.code
    return "OK"


def status(channel: grpc.Channel) -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status


def test_clients_that_trust_the_authority_are_answered_and_no_others(serve, server_files, authority, stranger):
    address = serve(server_files)
    assert rank(address, ClientSecurity(tls=True, ca_file=str(authority.certificate))) == "OK"
    assert rank(address, ClientSecurity(tls=True, ca_file=str(stranger.certificate))) == "UNAVAILABLE"
    assert rank(address) == "UNAVAILABLE"  # plain text
    wrong_name = ClientSecurity(tls=True, ca_file=str(authority.certificate), server_name="other.example")
    assert rank(address, wrong_name) == "UNAVAILABLE"
    assert rank(address, ClientSecurity(tls=True, ca_file=str(authority.certificate), server_name="replica.example")) == "OK"


def test_text_around_the_blocks_of_a_pem_may_have_any_encoding(serve, server_files, authority, tmp_path):
    chain = tmp_path / "chain.pem"
    chain.write_bytes("# Société Générale\n".encode("latin-1") + Path(server_files["certificate_file"]).read_bytes())
    address = serve(server_files | {"certificate_file": str(chain)})
    assert rank(address, ClientSecurity(tls=True, ca_file=str(authority.certificate))) == "OK"


def test_with_an_authority_of_clients_a_client_needs_its_certificate(serve, server_files, authority, stranger):
    address = serve(server_files | {"client_ca_file": str(authority.certificate)})
    trusting = {"tls": True, "ca_file": str(authority.certificate)}
    known, unknown = authority.issue("app"), stranger.issue("app")
    assert rank(address, ClientSecurity(**trusting, certificate_file=str(known[0]), key_file=str(known[1]))) == "OK"
    assert rank(address, ClientSecurity(**trusting)) == "UNAVAILABLE"
    assert rank(address, ClientSecurity(**trusting, certificate_file=str(unknown[0]), key_file=str(unknown[1]))) == "UNAVAILABLE"


def test_probes_without_a_certificate_see_the_health_on_a_port_of_its_own(serve, server_files, authority, reserved_port):
    port = reserved_port.getsockname()[1]
    serve(server_files | {"client_ca_file": str(authority.certificate), "require_token": False}, health_port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        while status(channel) != SERVING:
            SystemClock().sleep(0.02)
        stub = ranking_pb2_grpc.RankingStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Rank(ranking_pb2.RankRequest(item_ids=[1]), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_need_one_of_the_tokens_and_health_needs_none(serve, monkeypatch):
    monkeypatch.setenv("MONOLITH_SERVING_TOKENS", "\n".join(TOKENS))
    address = serve({"require_token": True})
    for token in TOKENS:
        assert rank(address, ClientSecurity(token=token)) == "OK"
    for token in (None, TOKENS[0][:-1], TOKENS[0] + "x", TOKENS[0].upper(), " ".join(TOKENS), "x" * 4000):
        assert rank(address, ClientSecurity(token=token)) == "UNAUTHENTICATED"
    with grpc.insecure_channel(address) as channel:
        assert status(channel) == SERVING
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=TIMEOUT_S
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_certificate_that_is_replaced_is_used_by_new_connections(serve, kind, authority, tmp_path):
    """Kubernetes and cert-manager replace files in place; a restart for each would drop calls."""
    files = {"certificate_file": str(tmp_path / "tls.crt"), "key_file": str(tmp_path / "tls.key")}
    old, new = (authority.issue(name, "IP:127.0.0.1") for name in ("old", "new"))

    def put(certificate: Path, key: Path) -> None:
        for source, target in ((certificate, "tls.crt"), (key, "tls.key")):
            staging = tmp_path / f"{target}~"
            shutil.copy(source, staging)
            staging.replace(tmp_path / target)

    put(*old)
    address = serve(files)
    port = int(address.rpartition(":")[2])
    shown = lambda: ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT_S).strip()  # noqa: E731
    assert shown() in old[0].read_text()
    put(new[0], old[1])  # in the middle of a change
    assert shown() in old[0].read_text()
    put(*new)
    while kind == "cpp" and shown() in old[0].read_text():  # it looks every 0.1 s
        SystemClock().sleep(0.02)
    assert shown() in new[0].read_text()
    assert rank(address, ClientSecurity(tls=True, ca_file=str(authority.certificate))) == "OK"


def test_the_command_line_ranks_over_tls_with_a_token(serve, server_files, authority, monkeypatch):
    monkeypatch.setenv("MONOLITH_SERVING_TOKENS", " ".join(TOKENS))
    address = serve(server_files | {"require_token": True})
    command = ["rank", "--address", address, "--user", "1", "--candidates", "7,8"]
    done = CliRunner().invoke(app, [*command, "--ca-file", str(authority.certificate)])
    assert done.exit_code == 0 and "click" in done.output
    monkeypatch.delenv("MONOLITH_SERVING_TOKENS")
    assert CliRunner().invoke(app, [*command, "--ca-file", str(authority.certificate)]).exit_code == 1


def test_tokens_that_are_missing_or_weak_stop_the_start(monkeypatch):
    config = ServingConfig(security={"require_token": True})
    with pytest.raises(ConfigError, match="MONOLITH_SERVING_TOKENS must hold a token"):
        make_server(EchoService(), config, SystemClock())
    monkeypatch.setenv("MONOLITH_SERVING_TOKENS", f"{TOKENS[0]} short")
    with pytest.raises(
        ConfigError, match="must hold tokens of 16 or more printable ASCII characters, got another one as number 2"
    ) as caught:
        make_server(EchoService(), config, SystemClock())
    assert "short" not in str(caught.value)


def test_certificates_of_no_use_stop_the_start(server_files, authority, stranger):
    def fault(**changes) -> str:
        with pytest.raises(ConfigError) as caught:
            ServerCertificates(ServingConfig(security=server_files | changes).security)
        return str(caught.value)

    assert "serving.security.key_file must be a readable PEM file, got 'absent'" in fault(key_file="absent")
    assert "must be a certificate and its key in PEM" in fault(key_file=str(stranger.issue("other")[1]))
    locked = authority.issue("locked", password="secret")
    assert "not encrypted" in fault(certificate_file=str(locked[0]), key_file=str(locked[1]))
    assert "client_ca_file must hold certificates in PEM" in fault(client_ca_file=server_files["key_file"])
