"""A server that answers quick calls in its own thread, on genuine gRPC: which thread answers, errors, calls without a message, the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import grpc
import pytest
from grpc import _server
from grpc._cython import cygrpc

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.errors import NotReady
from monolith_py.pb import ranking_pb2_grpc
from monolith_serving import direct_server
from monolith_serving.call_threads import MAX_AT_ONCE_BYTES, CallThreads
from monolith_serving.direct_server import DirectServer
from monolith_serving.interceptors import InCore, StatusInterceptor
from monolith_serving.process import make_server

TIMEOUT_S = 60.0
RANK = "/monolith.v1.Ranking/Rank"


class NamedThreads:
    """Answers each call with how and in which thread it was answered; `at_once` leaves calls that begin with "wait"."""

    def __init__(self) -> None:
        self.in_core = InCore(self.handle, self.at_once)
        self.gate = threading.Event()
        self.gate.set()

    def handle(self, value: bytes, context) -> bytes:
        assert self.gate.wait(TIMEOUT_S)
        if value == b"wait and exit":
            raise SystemExit
        return b"handled in " + threading.current_thread().name.encode()

    def at_once(self, value: bytes, context) -> bytes | None:
        if value == b"fail":
            raise NotReady("a secret")
        if value == b"exit":
            raise SystemExit
        return None if value.startswith(b"wait") else b"at once in " + threading.current_thread().name.encode()


@pytest.fixture
def core() -> NamedThreads:
    return NamedThreads()


@pytest.fixture
def threads(core: NamedThreads) -> Iterator[CallThreads]:
    """Threads of the server behind `channel`."""
    yield core.threads
    for _ in range(6000):  # the last calls end after their answers are here
        if core.threads._num_inside:
            threading.Event().wait(0.01)
    assert (core.threads.num_waiting, core.threads._num_inside) == (0, 0)


@pytest.fixture
def channel(core: NamedThreads) -> Iterator[grpc.Channel]:
    server = make_server(ranking_pb2_grpc.RankingServicer(), ServingConfig(grpc_threads=2), SystemClock(), core)
    core.threads = server._threads
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()


def test_a_short_call_is_answered_in_the_thread_of_the_server(channel, threads):
    rank = channel.unary_unary(RANK)
    assert rank(b"one", timeout=TIMEOUT_S) == rank(bytes(MAX_AT_ONCE_BYTES), timeout=TIMEOUT_S) == b"at once in grpc"


@pytest.mark.parametrize("value", [b"wait", bytes(MAX_AT_ONCE_BYTES + 1)])
def test_a_long_call_and_one_that_must_wait_get_a_thread(channel, threads, value):
    assert channel.unary_unary(RANK)(value, timeout=TIMEOUT_S).startswith(b"handled in rank_")


def test_short_calls_are_answered_while_all_threads_are_busy(channel, threads, core):
    core.gate.clear()
    rank = channel.unary_unary(RANK)
    held = [rank.future(b"wait", timeout=TIMEOUT_S) for _ in range(5)]
    assert all(rank(b"one", timeout=TIMEOUT_S) == b"at once in grpc" for _ in range(100))
    core.gate.set()
    assert all(call.result().startswith(b"handled") for call in held)


def test_an_error_of_an_answer_at_once_ends_the_call_with_its_status(channel, threads, caplog):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(RANK)(b"fail", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE and "secret" not in caught.value.details()
    assert not caplog.records


@pytest.mark.parametrize("value", [b"exit", b"wait and exit"])
def test_a_handler_that_exits_ends_its_call_and_no_thread(channel, threads, value):
    rank = channel.unary_unary(RANK)
    for _ in range(5):  # more than the server has threads
        with pytest.raises(grpc.RpcError) as caught:
            rank(value, timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert rank(b"one", timeout=TIMEOUT_S) == b"at once in grpc" and rank(b"wait", timeout=TIMEOUT_S).startswith(b"handled")


def test_several_threads_of_a_server_answer_and_end_with_it(core):
    threads = CallThreads(2, "rank", sheds=True)
    interceptor = StatusInterceptor("monolith.v1.Ranking", threads, 1000, SystemClock(), {"Rank": core.in_core})
    server = DirectServer(threads, [interceptor], (), num_threads=3)
    ranking_pb2_grpc.add_RankingServicer_to_server(ranking_pb2_grpc.RankingServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        rank = channel.unary_unary(RANK)
        calls = [rank.future(b"wait" if number % 7 == 0 else b"one", timeout=TIMEOUT_S) for number in range(400)]
        answers = [call.result() for call in calls]
        assert all(answer.startswith(b"at once in grpc" if number % 7 else b"handled in rank") for number, answer in enumerate(answers))
        core.gate.clear()
        held = rank.future(b"wait", timeout=TIMEOUT_S)
        while not threads._num_inside:
            threading.Event().wait(0.001)
        stopped = server.stop(TIMEOUT_S)
        assert not any(helper.is_alive() for helper in server._helpers)
        core.gate.set()
        assert held.result().startswith(b"handled") and stopped.wait(TIMEOUT_S)


def test_another_grpcio_gets_the_plain_server(core, monkeypatch, caplog):
    assert not direct_server.missing_parts()
    monkeypatch.delattr(_server, "_receive_message")
    monkeypatch.setattr(_server, "_status", lambda state: None)
    assert direct_server.missing_parts() == ["_server._receive_message", "_server._status"]
    server = make_server(ranking_pb2_grpc.RankingServicer(), ServingConfig(grpc_threads=2), SystemClock(), core)
    assert not isinstance(server, DirectServer)
    assert "calls take more CPU time: grpcio" in caplog.text and "_server._receive_message, _server._status" in caplog.text
    monkeypatch.undo()
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert channel.unary_unary(RANK)(b"one", timeout=TIMEOUT_S).startswith(b"handled in rank")
    server.stop(None).wait()


def test_a_call_that_ends_without_a_message_is_refused_by_its_status(channel, threads):
    call = channel.stream_unary(RANK).future(iter(()), timeout=TIMEOUT_S)
    assert (call.code(), call.details()) == (grpc.StatusCode.UNIMPLEMENTED, "a call must have one message")


def test_calls_that_are_cancelled_before_their_message_are_counted_no_more(channel, threads):
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait()
        yield from ()

    calls = [channel.stream_unary(RANK).future(nothing(), timeout=TIMEOUT_S) for _ in range(4)]
    while threads.num_waiting < 4 and not any(call.done() for call in calls):  # a slow machine cuts them off
        threading.Event().wait(0.001)
    for call in calls:
        call.cancel()
    gate.set()
    while threads.num_waiting:
        threading.Event().wait(0.001)
    assert channel.unary_unary(RANK)(b"one", timeout=TIMEOUT_S) == b"at once in grpc"


class LeftCall:
    """A call whose client has left."""

    is_active, value = False, b"one"

    def at_once(self, value: bytes, context) -> bytes:
        raise AssertionError("answered")


def test_a_call_whose_client_has_left_is_not_answered():
    with CallThreads(1, "test") as threads:
        task = SimpleNamespace(arrived_s=0.0, place=1)
        threads._num_waiting = threads._num_inside = 1
        threads._ready.append((task, LeftCall()))
        threads.answer_next()
        assert not threads.has_ready and threads.num_waiting == 0


def test_arrivals_without_end_do_not_hold_up_answers():
    """The thread takes in what has arrived before it answers: clients that never pause would wait for ever."""
    order: list[str] = []

    class Stop(Exception):
        pass

    class Event:
        completion_type = cygrpc.CompletionType.operation_complete

        def tag(self, event) -> tuple[None, tuple]:
            order.append("event")
            return None, ()

    class Threads:
        has_ready = True

        def answer_next(self) -> None:
            order.append("answer")
            if order.count("answer") == 3:
                raise Stop

    queue = SimpleNamespace(poll=lambda deadline: Event())
    stage = _server._ServerStage.STARTED
    state = SimpleNamespace(completion_queue=queue, server_deallocated=False, registered_method_handlers={}, stage=stage)
    with pytest.raises(Stop):
        direct_server._serve(state, Threads())
    assert order.count("event") == 3 * direct_server._MAX_EVENTS


def test_the_first_thread_ends_although_another_one_has_taken_the_last_event():
    class Queue:
        num_polls = 0

        def poll(self, deadline: float) -> SimpleNamespace:
            self.num_polls += 1
            assert self.num_polls < 3, "the thread of a server that has stopped goes on"
            state.stage = _server._ServerStage.STOPPED  # by another thread
            return SimpleNamespace(completion_type=cygrpc.CompletionType.queue_timeout)

    state = SimpleNamespace(completion_queue=Queue(), server_deallocated=False, stage=_server._ServerStage.STARTED)
    direct_server._serve(state, SimpleNamespace(has_ready=False))
    assert state.completion_queue.num_polls == 1


def test_a_server_starts_once():
    with CallThreads(1, "test") as threads:
        server = DirectServer(threads, (), ())
        server.start()
        with pytest.raises(ValueError, match="a server must be started once"):
            server.start()
        server.stop(None).wait()


def test_an_answer_is_sent_for_each_call_of_a_server_that_stops(core):
    server = make_server(ranking_pb2_grpc.RankingServicer(), ServingConfig(grpc_threads=2), SystemClock(), core)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    core.gate.clear()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        rank = channel.unary_unary(RANK)
        rank(b"one", timeout=TIMEOUT_S)
        held = [rank.future(b"wait", timeout=TIMEOUT_S) for _ in range(4)]
        while server._threads._num_inside < 4:
            threading.Event().wait(0.001)
        stopped = server.stop(TIMEOUT_S)
        core.gate.set()
        assert all(call.result().startswith(b"handled") for call in held) and stopped.wait(TIMEOUT_S)
