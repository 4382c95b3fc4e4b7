"""A gRPC server that gives a thread to a call once its message is there, and answers quick calls without one.

grpcio passes a call to a thread first, which then waits for the message: two hand-overs of the GIL a call, 70 to 200 us of CPU. Here the
server's own threads, one for each core, receive the message. They take in what has arrived before they answer, so calls that wait are
counted and can be refused.

This module knows inner parts of grpcio, so pyproject.toml admits one minor version of it; `missing_parts` names what another one lacks.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # not in the stubs

from monolith_py.clock import SystemClock

Options = Sequence[tuple[str, int | str]]
# Answers a call from its message in the server's thread; None for a call that needs a thread.
AtOnce = Callable[[bytes, Any], bytes | None]

_POLL_S = 1.0
# Longest time that a thread beside the first one goes on after the begin of a stop.
_HELPER_POLL_S = 0.2
# Events taken before a call is answered, so that arrivals without end hold up no answer.
_MAX_EVENTS = 32


# Inner parts of grpcio in use, with the names of their parameters.
_PARTS = {
    "_unary_response_in_pool": ("rpc_event", "state", "behavior", "argument_thunk", "request_deserializer", "response_serializer"),
    "_receive_message": ("state", "call", "request_deserializer"),
    "_status": ("rpc_event", "state", "serialized_response"),
    "_abort": ("state", "call", "code", "details"),
    "_Context": ("rpc_event", "state", "request_deserializer"),
    "_begin_shutdown_once": ("state",),
    "_process_event_and_continue": ("state", "event"),
    "_request_call": ("state",),
    "_request_registered_call": ("state", "method"),
}


def missing_parts() -> list[str]:
    """Return the inner parts of grpcio that this module uses and the installed grpcio lacks, or has in another form."""
    others = [("_server._ServerStage.STARTED", getattr(_server, "_ServerStage", None), "STARTED")]
    others += [("_server._RECEIVE_MESSAGE_TOKEN", _server, "_RECEIVE_MESSAGE_TOKEN")]
    others += [(f"cygrpc.{name}", cygrpc, name) for name in ("ReceiveMessageOperation", "CompletionType", "StatusCode")]
    return [name for name, owner, part in others if not hasattr(owner, part)] + [
        f"_server.{name}" for name, parameters in _PARTS.items() if _parameters_of(getattr(_server, name, None)) != parameters
    ]


def _parameters_of(part: Any) -> tuple[str, ...] | None:
    return tuple(inspect.signature(part).parameters) if callable(part) else None


class DirectCall:
    """A unary call of bytes, from its arrival to its answer. All but `run` is for the server's thread."""

    __slots__ = ("_behavior", "_event", "_run", "_state", "value")

    def __init__(self, run: Callable[..., None], event: Any, state: Any, behavior: Callable[[bytes, Any], bytes]) -> None:
        self._run, self._event, self._state, self._behavior = run, event, state, behavior
        self.value = b""  # the message, once it is there

    @staticmethod
    def of(run: Callable[..., Any], args: Sequence[Any]) -> DirectCall | None:
        """Return the call of which grpcio asks an executor to `run` the handler; None for a stream, or a handler that takes no bytes."""
        if len(args) != 7 or args[0] is not _server._unary_response_in_pool:
            return None
        _, event, state, behavior, receive, deserialize, serialize = args
        is_unary = receive.__qualname__.startswith("_unary_request.")
        return DirectCall(run, event, state, behavior) if is_unary and deserialize is None and serialize is None else None

    @property
    def at_once(self) -> AtOnce | None:
        """Return how to answer in the server's thread; None without such a way."""
        return getattr(self._behavior, "at_once", None)

    @property
    def is_active(self) -> bool:
        """Return whether the caller still waits."""
        return self._state.client != "cancelled" and not self._state.statused

    def receive(self, then: Callable[[bool], None]) -> None:
        """Receive the message, then call `then` with whether it came."""
        receive, state = _server._receive_message(self._state, self._event.call, None), self._state

        def received(event: Any) -> Any:
            ended = receive(event)
            value, state.request = state.request, None
            if value is None and state.client == "closed" and not state.statused:
                with state.condition:
                    _server._abort(state, self._event.call, cygrpc.StatusCode.unimplemented, b"a call must have one message")
            self.value = value or b""
            then(value is not None and ended[0] is None)
            return ended

        with state.condition:
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
            self._event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)

    def answer(self, at_once: AtOnce) -> bool:
        """Answer by `at_once`, also if it raises; return False if the call needs a thread."""
        try:
            response = at_once(self.value, _server._Context(self._event, self._state, None))
        except BaseException as error:  # SystemExit too: it would end the server
            self._fail(error)
            return True
        if response is None:
            return False
        _server._status(self._event, self._state, response)
        return True

    def run(self) -> None:
        """Run the handler, in any thread."""
        self._handle(self._behavior)

    def cancel(self) -> None:
        """End the call as cancelled."""
        self._event.call.cancel()

    def _fail(self, error: BaseException) -> None:
        def fail(_value: bytes, _context: Any) -> bytes:
            raise error

        self._handle(fail)

    def _handle(self, behavior: Callable[[bytes, Any], bytes]) -> None:
        self._run(_server._unary_response_in_pool, self._event, self._state, behavior, lambda: self.value, None, None)


class DirectThreads(ThreadPoolExecutor):
    """An executor that receives calls by `DirectCall.receive` and keeps those that may be answered at once."""

    is_direct = False  # whether calls come from a `DirectServer`

    @property
    def has_ready(self) -> bool:
        """Return whether a call has its message and waits for `answer_next`."""
        raise NotImplementedError

    def answer_next(self) -> None:
        """Answer the first of these calls at once, or give it a thread."""
        raise NotImplementedError


class DirectServer(_server._Server):
    """A gRPC server whose `num_threads` threads answer the calls that `threads` keeps for them."""

    def __init__(
        self, threads: DirectThreads, interceptors: Sequence[grpc.ServerInterceptor[Any, Any]], options: Options, num_threads: int = 1
    ) -> None:
        super().__init__(threads, (), interceptors, options, None, None, False)
        threads.is_direct = True
        self._threads = threads
        arguments = self._state, threads
        # All but the first end at the begin of a stop: the last event of a server ends the thread that takes it, no other.
        self._helpers = [threading.Thread(target=_help, args=arguments, name="grpc", daemon=True) for _ in range(num_threads - 1)]

    def stop(self, grace: float | None = None) -> threading.Event:
        """Refuse new calls and end those in progress after `grace` seconds; see grpcio's `Server.stop`."""
        ended: threading.Event = super().stop(grace)
        for thread in self._helpers:
            if thread.ident is not None:
                thread.join()
        return ended

    def start(self) -> None:
        """Start the server."""
        state = self._state
        with state.lock:
            if state.stage is not _server._ServerStage.STOPPED:
                raise ValueError("a server must be started once")
            state.server.start()
            state.stage = _server._ServerStage.STARTED
            for method in state.registered_method_handlers:
                _server._request_registered_call(state, method)
            _server._request_call(state)
            threading.Thread(target=_serve, args=(state, self._threads), name="grpc", daemon=True).start()
        for thread in self._helpers:
            thread.start()


def _serve(state: Any, threads: DirectThreads) -> None:
    """Handle the events of a server until it has stopped, as grpcio's function of this name does; answer when no event waits."""
    events = _Events(state, threads, _POLL_S)
    # The last event may have been taken by another thread, at the begin of the stop.
    while state.stage is not _server._ServerStage.STOPPED and events.take():
        pass


def _help(state: Any, threads: DirectThreads) -> None:
    """Do the same until a stop begins."""
    events = _Events(state, threads, _HELPER_POLL_S)
    while state.stage is _server._ServerStage.STARTED and events.take():
        pass


class _Events:
    """Events of a server, as one thread takes them."""

    def __init__(self, state: Any, threads: DirectThreads, poll_s: float) -> None:
        self._state, self._threads, self._poll_s = state, threads, poll_s
        self._clock, self._num_taken = SystemClock(), 0

    def take(self) -> bool:
        """Handle an event, or answer a call if none waits; return False after the last one."""
        state, has_ready, event = self._state, self._threads.has_ready, None
        if not (has_ready and self._num_taken >= _MAX_EVENTS):
            event = state.completion_queue.poll(0.0 if has_ready else self._clock.now_ms() / 1000 + self._poll_s)
        if state.server_deallocated:
            _server._begin_shutdown_once(state)
        if event is not None and event.completion_type != cygrpc.CompletionType.queue_timeout:
            self._num_taken += 1
            return bool(_server._process_event_and_continue(state, event))
        self._num_taken = 0
        if has_ready:
            self._threads.answer_next()
        return True
