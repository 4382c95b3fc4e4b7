"""gRPC interceptor: an exception of a handler ends the RPC with its status code; RPCs are counted and timed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from monolith_py.clock import Clock
from monolith_py.errors import KvError, NotReady, WireError
from monolith_py.observe.metrics import RANK_DURATION_SECONDS, RANK_REQUESTS

_logger = logging.getLogger(__name__)

# Any other exception is INTERNAL.
CODES: dict[type[Exception], grpc.StatusCode] = {
    WireError: grpc.StatusCode.INVALID_ARGUMENT,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    KvError: grpc.StatusCode.UNAVAILABLE,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def code_of(error: Exception) -> grpc.StatusCode:
    """Return the status code of an exception."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


class StatusInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Handles the unary RPCs of one service, for instance "monolith.v1.Ranking"; RPCs of other services pass unchanged."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._prefix, self._clock = f"/{service}/", clock

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Return the handler of an RPC, wrapped if it belongs to the service."""
        handler = continuation(details)
        if handler is None or not details.method.startswith(self._prefix):
            return handler
        assert handler.unary_unary is not None, f"{details.method} must be unary"
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(details.method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _wrap(self, method: str, handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a handler that counts and times `handle`, and aborts the RPC if it raises."""

        def handle_rpc(message: Any, context: Any) -> Any:
            start_s = self._clock.monotonic_s()
            try:
                response = handle(message, context)
            except Exception as error:
                code = code_of(error)
                RANK_REQUESTS.labels(code=code.name).inc()
                if code is grpc.StatusCode.INTERNAL:
                    _logger.exception("%s failed, request %r", method, getattr(message, "request_id", ""))
                context.abort(code, str(error))  # raises
            RANK_REQUESTS.labels(code="OK").inc()
            RANK_DURATION_SECONDS.observe(self._clock.monotonic_s() - start_s)
            return response

        return handle_rpc
