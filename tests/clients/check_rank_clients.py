"""Clients of Rank with plain gRPC, in Python and Go: over TLS with a token, tried again after a refusal, every field as sent.

`make test-clients` runs this file, as check_clients.py; a client whose toolchain is missing is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from check_clients import ROOT, SEND_S, need, prepared, run

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.errors import Overloaded
from monolith_py.pb import example_pb2, ranking_pb2, ranking_pb2_grpc
from monolith_py.process import StopSignal
from monolith_serving.process import _serve
from tests.certificates import Authority
from tests.fronts import FRONTS, FreshReplica, front_of

TOKEN = "token-of-the-clients"
PROTOS = ["monolith/v1/example.proto", "monolith/v1/ranking.proto"]


class BusyService(ranking_pb2_grpc.RankingServicer):
    """Refuses the first call, answers the second; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[ranking_pb2.RankRequest] = []

    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        self.requests.append(message)
        if len(self.requests) == 1:
            raise Overloaded("busy, as the test says")
        return ranking_pb2.RankResponse(
            request_id=message.request_id,
            candidates=[2, 0],
            scores=[0.75, 0.25],
            task_names=["click"],
            model_version="4.2",
            candidate_features=example_pb2.FeatureColumns(
                sparse=[example_pb2.SparseColumn(name="tags", fids=[(1 << 63) - 1, -5, 6], lengths=[1, 2])]
            ),
        )


@pytest.fixture(params=FRONTS)
def door(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[BusyService, str, Path]]:
    """Return a service behind TLS and a token, its address and the authority's certificate."""
    monkeypatch.setenv("MONOLITH_SERVING_TOKENS", TOKEN)
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server", "IP:127.0.0.1")
    security = {"certificate_file": str(certificate), "key_file": str(key), "require_token": True}
    config = ServingConfig(port=0, drain_s=0.0, port_file=str(tmp_path / "port"), security=security)
    service, stop, clock = BusyService(), StopSignal(), SystemClock()
    front = front_of(request.param, service, config)
    thread = threading.Thread(target=_serve, args=(front, FreshReplica(), config, stop, clock))
    thread.start()
    while not (tmp_path / "port").exists():
        clock.sleep(0.01)
    yield service, f"127.0.0.1:{(tmp_path / 'port').read_text()}", authority.certificate
    stop.set()
    thread.join()


def set_up_go(folder: Path) -> None:
    (folder / "pb").mkdir()
    run(["go", "install", "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11"], folder)
    run(["go", "install", "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0"], folder)
    gopath = subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    for name in ("go", "go-grpc"):
        command += [f"--plugin=protoc-gen-{name}={gopath}/bin/protoc-gen-{name}", f"--{name}_out=pb", f"--{name}_opt=module=rank/pb"]
        command += [f"--{name}_opt=M{proto}=rank/pb" for proto in PROTOS]
    run([*command, *PROTOS], folder)
    run(["go", "mod", "tidy"], folder)
    run(["go", "build", "-o", "rank", "."], folder)


def go() -> tuple[Path, list[str]]:
    need("go")
    return prepared("rank_go", set_up_go), ["./rank"]


def python() -> tuple[Path, list[str]]:
    def set_up(folder: Path) -> None:
        run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--python_out=.", "--grpc_python_out=.", *PROTOS], folder)

    return prepared("rank_python", set_up), [sys.executable, "rank.py"]


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("client", [python, go])
def test_a_client_ranks_over_tls_with_a_token_after_a_refusal(
    client: Callable[[], tuple[Path, list[str]]], door: tuple[BusyService, str, Path]
) -> None:
    folder, command = client()
    service, address, authority = door
    environment = {**os.environ, "RANK_TOKEN": TOKEN}
    done = subprocess.run(
        [*command, address, str(authority)], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=SEND_S
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer = {"candidates": [2, 0], "scores": [0.75, 0.25], "task_names": ["click"], "model_version": "4.2"}
    answer["features"] = {"tags": [(1 << 63) - 1, -5, 6]}
    assert json.loads(done.stdout) == answer | {"request_id": f"from-{client.__name__}"}
    assert len(service.requests) == 2 and service.requests[0] == service.requests[1]
    request = service.requests[0]
    assert (request.user_id, list(request.item_ids)) == (-7, [11, (1 << 63) - 1, -(1 << 63)])
    assert (request.top_k, request.rank_by, list(request.context.sparse[0].fids)) == (2, "click", [5, 6])
    assert list(request.return_features) == ["tags"]
    assert list(request.candidate_features.sparse[0].fids) == [0, 1, 2]
    assert list(request.candidate_features.dense[0].values) == [0.5, 1.5, 2.5]
    refused = subprocess.run(
        [*command, address, str(authority)],
        cwd=folder,
        env=environment | {"RANK_TOKEN": "another-token-of-16"},
        capture_output=True,
        text=True,
        check=False,
        timeout=SEND_S,
    )
    assert refused.returncode != 0 and "unauthenticated" in refused.stderr.lower()
