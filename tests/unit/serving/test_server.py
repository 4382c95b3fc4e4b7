"""Clients that hold calls open, on a genuine gRPC server: they starve neither Rank nor health, and get no impression logged."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2, ranking_pb2_grpc
from monolith_serving import call_threads
from monolith_serving.ranking.answered import on_end
from tests.fronts import FRONTS, front_of

TIMEOUT_S = 60.0
RANK = "/monolith.v1.Ranking/Rank"


class GatedService(ranking_pb2_grpc.RankingServicer):
    """Holds every call until the gate opens; keeps whether each was answered."""

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.ends: queue.Queue[tuple[str, bool]] = queue.Queue()

    def Rank(self, message, context):  # noqa: N802 (the name in the proto)
        on_end(context, lambda is_answered: self.ends.put((message.request_id, is_answered)))
        self.entered.release()
        self.gate.wait()
        return ranking_pb2.RankResponse(request_id=message.request_id)


@pytest.fixture
def service() -> Iterator[GatedService]:
    service = GatedService()
    yield service
    service.gate.set()


@pytest.fixture(params=FRONTS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(kind: str, service: GatedService) -> Iterator:
    """Return a function that starts a server with some settings and returns a channel to it."""
    with ExitStack() as stack:

        def start(**settings) -> grpc.Channel:
            front = front_of(kind, service, ServingConfig(port=0, **settings))
            port = front.start()
            front.set_serving(True)
            stack.callback(front.stop, 0.0)
            stack.callback(service.gate.set)
            return stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))

        yield start


@pytest.fixture
def silence() -> Iterator[threading.Event]:
    """Event that ends the streams of clients that send nothing."""
    event = threading.Event()
    yield event
    event.set()


# Of grpcio: reflection, and a setting of `CallThreads` that the test changes; tests/cpp/test_front.cpp has that of the C++ front.
only_python = pytest.mark.parametrize("kind", ["python"], indirect=True)


def nothing(silence: threading.Event) -> Iterator[bytes]:
    silence.wait()
    yield from ()


def rank(channel: grpc.Channel, request_id: str = "r") -> grpc.Future:
    stub = ranking_pb2_grpc.RankingStub(channel)
    return stub.Rank.future(ranking_pb2.RankRequest(request_id=request_id), timeout=TIMEOUT_S)


def is_serving(channel: grpc.Channel) -> bool:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@only_python
def test_idle_reflection_streams_stop_neither_rank_nor_health(connect, service, silence):
    """Sixteen of them held all threads of a replica for ever."""
    channel = connect(reflection=True, grpc_threads=2)
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    def question_then_silence() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        silence.wait()

    holding = [stub.ServerReflectionInfo(question_then_silence(), timeout=TIMEOUT_S) for _ in range(2)]
    for stream in holding:
        next(stream)  # it has a thread
    waiting = [stub.ServerReflectionInfo(nothing(silence), timeout=TIMEOUT_S) for _ in range(40)]
    service.gate.set()
    assert rank(channel).result().request_id == "r" and is_serving(channel)
    assert all(stream.is_active() for stream in holding)  # in the threads of Rank they would have been cut off first
    for stream in (*holding, *waiting):
        stream.cancel()


def test_reflection_is_off_by_default(connect, silence):
    stub = reflection_pb2_grpc.ServerReflectionStub(connect())
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.ServerReflectionInfo(nothing(silence), timeout=TIMEOUT_S))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_health_answers_while_every_thread_of_rank_is_busy(connect, service):
    channel = connect(grpc_threads=2)
    calls = [rank(channel) for _ in range(5)]
    for _ in range(2):
        assert service.entered.acquire(timeout=TIMEOUT_S)
    assert is_serving(channel)
    service.gate.set()
    assert all(call.result() for call in calls)


@pytest.mark.parametrize("method", [RANK, "/grpc.health.v1.Health/Check"])
def test_calls_that_never_send_their_message_are_cut_off(connect, service, silence, method):
    """grpcio waits for the message in the handler's thread, without a limit."""
    channel = connect(grpc_threads=2)
    service.gate.set()
    half = [channel.stream_unary(method).future(nothing(silence), timeout=TIMEOUT_S) for _ in range(4)]
    assert rank(channel).result().request_id == "r" and is_serving(channel)
    assert {call.exception().code() for call in half} == {grpc.StatusCode.CANCELLED}


def test_more_requests_than_may_wait_are_refused_at_once(connect, service):
    channel = connect(grpc_threads=1, max_waiting_requests=2)
    first = rank(channel, "first")
    assert service.entered.acquire(timeout=TIMEOUT_S)
    refused = threading.Semaphore(0)
    calls = [rank(channel, str(number)) for number in range(10)]
    for call in calls:
        call.add_done_callback(lambda _: refused.release())
    for _ in range(8):
        assert refused.acquire(timeout=TIMEOUT_S)
    service.gate.set()
    assert first.result().request_id == "first"
    codes = [None if call.exception() is None else call.exception().code() for call in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 8 and codes.count(None) == 2


def test_calls_without_a_message_count_among_those_that_wait(connect, service, silence):
    """The C++ front held any number of them, each with room for a message."""
    channel = connect(max_waiting_requests=2)
    ended = threading.Semaphore(0)
    calls = [channel.stream_unary(RANK).future(nothing(silence), timeout=TIMEOUT_S) for _ in range(10)]
    for call in calls:
        call.add_done_callback(lambda _: ended.release())
    for _ in range(10):
        assert ended.acquire(timeout=TIMEOUT_S)
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 6 and codes.count(grpc.StatusCode.CANCELLED) >= 2
    service.gate.set()
    assert rank(channel).result().request_id == "r"


@only_python
def test_a_call_that_would_end_too_late_is_refused_before_it_is_ranked(connect, service, monkeypatch):
    monkeypatch.setattr(call_threads, "_LARGEST_SHARE", 1e-9)  # of the time of a call: any prediction is too late
    channel = connect(grpc_threads=1)
    service.gate.set()
    for number in range(16):  # observations
        rank(channel, str(number)).result()
        assert service.entered.acquire(timeout=TIMEOUT_S)
    service.gate.clear()
    held = rank(channel, "held")
    assert service.entered.acquire(timeout=TIMEOUT_S)
    refused = rank(channel, "late").exception()
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and refused.details().endswith("1 are before it")
    service.gate.set()
    assert held.result().request_id == "held"


def test_an_answered_call_is_told_from_one_that_was_cancelled_or_ran_out_of_time(connect, kind, service):
    """Of 101 cancelled requests 80 were logged, of 54 past their deadline 25: the joiner made negatives of them."""
    channel = connect(grpc_threads=3)
    stub = ranking_pb2_grpc.RankingStub(channel)
    answered, cancelled = rank(channel, "answered"), rank(channel, "cancelled")
    expired = stub.Rank.future(ranking_pb2.RankRequest(request_id="expired"), timeout=0.5)
    for _ in range(3):
        assert service.entered.acquire(timeout=TIMEOUT_S)
    cancelled.cancel()
    assert expired.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # In Python before their handlers return.
    early = {service.ends.get(timeout=TIMEOUT_S) for _ in range(2)} if kind == "python" else set()
    service.gate.set()
    assert answered.result().request_id == "answered"
    ends = early | {service.ends.get(timeout=TIMEOUT_S) for _ in range(3 - len(early))}
    assert ends == {("answered", True), ("cancelled", False), ("expired", False)}
