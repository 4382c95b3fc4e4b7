"""Clients that set no deadline, leave, come too late, or send garbage: the replica answers the others, and logs what it answered."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from surroundings import WAIT_S, Child, Deployment, now_ms, send_bytes, wait_until

from monolith_py.io.codec import decode_impression
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc
from monolith_serving.client import RankClient

NUM_CALLS = 40
SERVICE = "monolith.v1.Ranking"
RANK = f"/{SERVICE}/Rank"
# The replica logs at most one line of each kind of fault in a while.
MOST_LINES = 60


class Serving:
    """A replica with a first checkpoint, and raw clients of it."""

    def __init__(self, drill: Deployment) -> None:
        self.drill = drill
        drill.run("train", "--stop-at-end")
        self.replica: Child = drill.start("serve")
        wait_until(lambda: (drill.folder / "port").exists(), [self.replica])
        self.channel = grpc.insecure_channel(drill.address)
        self.stub = ranking_pb2_grpc.RankingStub(self.channel)
        # It answers before it has caught up with the updates.
        wait_until(lambda: self.health() == health_pb2.HealthCheckResponse.SERVING, [self.replica])

    def request(self, request_id: str) -> pb.RankRequest:
        return pb.RankRequest(request_id=request_id, user_id=1, item_ids=[1, 2, 3], time_ms=now_ms() - 1000)

    def health(self, channel: grpc.Channel | None = None) -> int:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        return health_pb2_grpc.HealthStub(channel or self.channel).Check(request, timeout=WAIT_S).status

    def scores(self) -> list[float]:
        """Return the scores of a request that is no training data."""
        with RankClient(self.drill.address) as client:
            return client.rank(1, [1, 2, 3], timeout_s=WAIT_S, log_impression=False).scores[:, 0].tolist()

    def impressions(self) -> Counter[str]:
        """Return how often each request was logged, once the replica has stopped."""
        return Counter(decode_impression(record.value).request_id for record in self.drill.records(self.drill.topics.impressions))


@pytest.fixture
def serving(deploy: Callable[..., Deployment]) -> Iterator[Serving]:
    serving = Serving(deploy(serving={"reflection": True}))
    yield serving
    serving.channel.close()


def codes_of(calls: dict[str, grpc.Future]) -> dict[str, grpc.StatusCode]:
    """Wait for the calls and return the status of each."""
    for call in calls.values():
        with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
            call.result(WAIT_S)
    return {request_id: call.code() for request_id, call in calls.items()}


def test_an_impression_is_logged_for_each_answered_call_and_for_no_other(serving: Serving) -> None:
    stub, request = serving.stub, serving.request
    endless = {f"endless-{n}": stub.Rank.future(request(f"endless-{n}")) for n in range(NUM_CALLS)}
    hasty = {f"hasty-{n}": stub.Rank.future(request(f"hasty-{n}"), timeout=0.001 * n) for n in range(NUM_CALLS)}
    fickle = {f"fickle-{n}": stub.Rank.future(request(f"fickle-{n}"), timeout=WAIT_S) for n in range(NUM_CALLS)}
    for call in list(fickle.values())[::2]:
        call.cancel()
    codes = codes_of(endless | hasty | fickle)
    assert {codes[request_id] for request_id in endless} == {grpc.StatusCode.OK}
    answered = {request_id for request_id, code in codes.items() if code is grpc.StatusCode.OK}

    # A replica that stands still reads these calls when their clients have left.

    serving.replica.process.send_signal(signal.SIGSTOP)
    left = {f"left-{n}": stub.Rank.future(request(f"left-{n}")) for n in range(NUM_CALLS)}
    expired = {f"expired-{n}": stub.Rank.future(request(f"expired-{n}"), timeout=0.05) for n in range(NUM_CALLS)}
    for call in left.values():
        call.cancel()
    gone = codes_of(left | expired)
    serving.replica.process.send_signal(signal.SIGCONT)
    assert set(gone.values()) == {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}

    later = {f"later-{n}": stub.Rank.future(request(f"later-{n}")) for n in range(NUM_CALLS)}
    assert set(codes_of(later).values()) == {grpc.StatusCode.OK}
    wait_until(lambda: serving.health() == health_pb2.HealthCheckResponse.SERVING, [serving.replica])
    serving.replica.stop()
    logged = serving.impressions()
    assert set(logged.values()) == {1}
    assert answered | later.keys() <= logged.keys()
    assert not gone.keys() & logged.keys()
    # An answer may have been on its way when its client left.
    assert logged.keys() - answered - later.keys() <= hasty.keys() | fickle.keys()


def test_garbage_and_idle_streams_disturb_no_neighbour(serving: Serving) -> None:
    before = serving.scores()
    raw = serving.channel.unary_unary(RANK)
    big = pb.RankRequest(item_ids=range(1 << 20)).SerializeToString()
    for number in range(200):
        with pytest.raises(grpc.RpcError) as garbage:
            raw(bytes([255, number]) * (number + 1), timeout=WAIT_S)
        assert garbage.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as oversize:
        raw(big, timeout=WAIT_S)
    assert oversize.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for value in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096):
        # The server may close the connection first.
        with contextlib.suppress(ConnectionError):
            send_bytes(serving.drill.address, value)

    streams = [grpc.insecure_channel(serving.drill.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(16)]
    try:
        done = threading.Event()
        for channel in streams:
            reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(_until(done))
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        calls = {f"among-streams-{n}": serving.stub.Rank.future(serving.request(f"among-streams-{n}")) for n in range(NUM_CALLS)}
        assert set(codes_of(calls).values()) == {grpc.StatusCode.OK}
        assert serving.health() == health_pb2.HealthCheckResponse.SERVING
        assert serving.scores() == before
    finally:
        done.set()
        for channel in streams:
            channel.close()
    serving.replica.stop()
    assert serving.impressions() == Counter(calls.keys())
    said = serving.replica.said()
    assert "Traceback" not in said and len(said.splitlines()) < MOST_LINES, said[-6000:]


def _until(done: threading.Event) -> Iterator[reflection_pb2.ServerReflectionRequest]:
    """Send nothing until the drill is over."""
    done.wait()
    yield from ()
