"""gRPC interceptors: threads for each service; exceptions of handlers become status codes; RPCs are counted and timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn

import grpc

from monolith_py.clock import Clock
from monolith_py.errors import ConditionFailed, KvError, NotReady, Overloaded, WireError
from monolith_py.observe.metrics import RANK_DURATION_SECONDS, RANK_REQUESTS
from monolith_serving.call_threads import CallerThread, CallThreads
from monolith_serving.log_limit import LogLimit

_logger = logging.getLogger(__name__)

BytesHandler = Callable[[bytes, Any], bytes | None]


class InCore(NamedTuple):
    """Ways to answer an RPC in the core: in any thread, and at once, without waiting for anything."""

    handle: BytesHandler
    at_once: BytesHandler | None = None


# Any other exception is INTERNAL.
CODES: dict[type[Exception], grpc.StatusCode] = {
    WireError: grpc.StatusCode.INVALID_ARGUMENT,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    KvError: grpc.StatusCode.UNAVAILABLE,
    ConditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    CancelledError: grpc.StatusCode.CANCELLED,
}
# Texts for errors whose own text may hold a host, a path or a secret.
_PUBLIC_TEXTS: dict[type[Exception], str] = {
    NotReady: "the replica has loaded no checkpoint yet",
    KvError: "stored features cannot be read",
    CancelledError: "the client ended the call",
}
# gRPC clients take 8 KiB of metadata by default; status details are part of it, up to three bytes a character.
MAX_DETAILS = 1000


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status code of an exception."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def details_of(error: BaseException) -> str:
    """Return the text of an exception for the caller: printable ASCII, at most MAX_DETAILS characters, without the replica's internals."""
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        return "internal error of the replica; its log has the cause"
    public = next((text for kind, text in _PUBLIC_TEXTS.items() if isinstance(error, kind)), None)
    if public is not None:
        return public
    # The first cut bounds the work, the second the result: one character may become ten.
    start = str(error)[: MAX_DETAILS + 1]
    shown = "".join(one if " " <= one <= "~" else one.encode("unicode_escape").decode() for one in start)
    return shown if len(shown) <= MAX_DETAILS else f"{shown[: MAX_DETAILS - 3]}..."


class ThreadsInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Runs the handlers of some services in threads of their own; `threads` has service names as keys."""

    def __init__(self, threads: Mapping[str, ThreadPoolExecutor]) -> None:
        self._threads = {f"/{service}/": pool for service, pool in threads.items()}

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of an RPC, bound to the threads of its service."""
        handler = continuation(details)
        pool = next((pool for prefix, pool in self._threads.items() if details.method.startswith(prefix)), None)
        if handler is None or pool is None:
            return handler
        kind = next(kind for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream") if getattr(handler, kind) is not None)
        return handler._replace(**{kind: in_threads(getattr(handler, kind), pool)})


def in_threads(handle: Callable[..., Any], pool: ThreadPoolExecutor) -> Callable[..., Any]:
    """Return a handler whose calls run in the threads of `pool`."""

    def handle_rpc(*args: Any, **kwargs: Any) -> Any:
        return handle(*args, **kwargs)

    handle_rpc.experimental_non_blocking = getattr(handle, "experimental_non_blocking", False)  # type: ignore[attr-defined]
    handle_rpc.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return handle_rpc


class StatusInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Handles the unary RPCs of one service, for instance "monolith.v1.Ranking"; RPCs of other services pass unchanged.

    Messages are parsed here: grpcio ends a call with bytes that it cannot parse as INTERNAL, with a traceback. `in_core` has the names of
    RPCs that the core answers, bytes for bytes; it returns None for a request that it leaves to the service. `at_once` returns None for
    one that needs a thread.
    """

    def __init__(
        self, service: str, threads: CallThreads, max_waiting: int, clock: Clock, in_core: Mapping[str, InCore] | None = None
    ) -> None:
        self._in_core = {f"/{service}/{name}": handle for name, handle in (in_core or {}).items()}
        self._handlers: dict[str, Any] = {}  # by method, made once
        self._prefix, self._threads, self._max_waiting, self._clock = f"/{service}/", threads, max_waiting, clock
        self._log_limit, self._answered = LogLimit(clock), RANK_REQUESTS.labels(code="OK")
        # A stream's handler runs before its messages arrive, so a refusal never waits for a client.
        self._refusal = grpc.stream_unary_rpc_method_handler(in_threads(self._refuse, CallerThread()))

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of an RPC, wrapped if it belongs to the service."""
        handler = continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        if self._threads.num_waiting >= self._max_waiting:
            return self._refusal
        wrapped = self._handlers.get(details.method)
        if wrapped is None:
            assert handler.unary_unary is not None, f"{details.method} must be unary"
            wrapped = self._handlers[details.method] = grpc.unary_unary_rpc_method_handler(self._wrap(details.method, handler))
        return wrapped

    def _wrap(self, method: str, handler: Any) -> BytesHandler:
        """Return a handler that parses the message, counts and times the call, and aborts the RPC if it raises."""
        in_core = self._in_core.get(method)

        def handle_rpc(value: bytes, context: Any) -> bytes | None:
            start_s = self._clock.monotonic_s()
            message = None
            try:
                self._threads.received()
                response = None if in_core is None else in_core.handle(value, context)
                if response is None:
                    message = _parsed(handler.request_deserializer, value)
                    response = handler.response_serializer(handler.unary_unary(message, context))
            except BaseException as error:  # SystemExit too: it would end the thread, and leave the call open
                self._abort(method, getattr(message, "request_id", ""), error, context)
            self._note_answered(start_s)
            return response

        if in_core is not None and in_core.at_once is not None:
            handle_rpc.at_once = self._at_once(method, in_core.at_once)  # type: ignore[attr-defined]
        return handle_rpc

    def _at_once(self, method: str, answer: BytesHandler) -> BytesHandler:
        def answer_at_once(value: bytes, context: Any) -> bytes | None:
            start_s = self._clock.monotonic_s()
            try:
                response = answer(value, context)
            except BaseException as error:  # SystemExit too: it would end the thread, and leave the call open
                self._abort(method, "", error, context)
            if response is not None:
                self._note_answered(start_s)
            return response

        return answer_at_once

    def _note_answered(self, start_s: float) -> None:
        self._answered.inc()
        RANK_DURATION_SECONDS.observe(self._clock.monotonic_s() - start_s)

    def _abort(self, method: str, request_id: str, error: BaseException, context: Any) -> NoReturn:
        """End an RPC with the status of the `error` that is being handled."""
        code = code_of(error)
        RANK_REQUESTS.labels(code=code.name).inc()
        if code is grpc.StatusCode.INTERNAL and self._log_limit.allows(type(error).__name__):
            _logger.exception("%s failed, request %r", method, request_id[:128])
        context.abort(code, details_of(error))
        raise AssertionError("abort raises")

    def _refuse(self, _messages: Any, context: Any) -> None:
        RANK_REQUESTS.labels(code="RESOURCE_EXHAUSTED").inc()
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {self._max_waiting} requests may wait")


def _parsed(deserialize: Callable[[bytes], Any], value: bytes) -> Any:
    """Return the message in `value`.

    Raises:
        WireError: there is none.
    """
    try:
        return deserialize(value)
    except Exception as error:  # protobuf's DecodeError, and RecursionError for deep nesting
        raise WireError(f"request must be a message of the service, got {len(value)} bytes: {error}") from None
