"""Calls that the C++ front leaves to Python: features to read, rare fields, refusals with a reason."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress

import grpc

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.errors import WireError
from monolith_py.observe.metrics import RANK_DURATION_SECONDS, RANK_REQUESTS
from monolith_py.pb import ranking_pb2 as pb
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.core_service import CoreService
from monolith_serving.interceptors import code_of, details_of
from monolith_serving.log_limit import LogLimit

_logger = logging.getLogger(__name__)


class FrontContext:
    """The part of `grpc.ServicerContext` that the ranking service uses."""

    def __init__(self, call: _core.FrontCall) -> None:
        self._call = call
        self.callbacks: list[Callable[[bool], None]] = []

    def time_remaining(self) -> float:
        """Return the seconds to the deadline."""
        return self._call.left_s

    def is_active(self) -> bool:
        """Return whether the caller still waits."""
        return self._call.is_active

    def on_end(self, callback: Callable[[bool], None]) -> None:
        """Call `callback` once the call has ended, with whether its answer was sent."""
        self.callbacks.append(callback)


class FrontCalls:
    """Threads that answer the queued calls of a front, with the status codes and metrics of `StatusInterceptor`."""

    def __init__(
        self, front: _core.RankFront, service: pb_grpc.RankingServicer, core: CoreService | None, num_threads: int, clock: Clock
    ) -> None:
        self._front, self._service, self._core, self._clock = front, service, core, clock
        self._log_limit = LogLimit(clock)
        self._numbers = itertools.count()
        self._endings: dict[int, list[Callable[[bool], None]]] = {}  # of answers whose end was not reported
        self._threads = [threading.Thread(target=self._run, name=f"rank-{index}", daemon=True) for index in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def note_ended(self, number: int, is_answered: bool) -> None:
        """Tell the service that a call has ended."""
        for callback in self._endings.pop(number):
            callback(is_answered)

    def join(self) -> None:
        """Wait for the threads; the front must be closed."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (call := self._front.next_call()) is not None:
            try:
                self._answer(call)
            except BaseException as error:  # SystemExit too: a front without threads answers nothing
                _logger.exception("a call could not be ended")
                # A freed call ends by itself, but a log handler may keep the traceback, which holds the call.
                with suppress(ValueError):  # it has been answered
                    call.refuse(grpc.StatusCode.INTERNAL.value[0], details_of(error))
            del call  # not held during the wait for the next one

    def _answer(self, call: _core.FrontCall) -> None:
        start_s, context = self._clock.monotonic_s(), FrontContext(call)
        try:
            response = self._rank(call.value, context)
        except BaseException as error:
            code = code_of(error)
            RANK_REQUESTS.labels(code=code.name).inc()
            if code is grpc.StatusCode.INTERNAL and self._log_limit.allows(type(error).__name__):
                _logger.exception("Rank failed")
            call.refuse(code.value[0], details_of(error))
            for callback in context.callbacks:
                callback(False)
            return
        RANK_REQUESTS.labels(code="OK").inc()
        RANK_DURATION_SECONDS.observe(self._clock.monotonic_s() - start_s)
        if context.callbacks:
            number = next(self._numbers)
            self._endings[number] = context.callbacks
            self._front.answer(call, response, number)
        else:
            call.answer(response)

    def _rank(self, value: bytes, context: FrontContext) -> bytes:
        if not context.is_active():
            raise CancelledError
        response = None if self._core is None else self._core.rank(value, context)
        if response is not None:
            return response
        try:
            message = pb.RankRequest.FromString(value)
        except Exception as error:  # protobuf's DecodeError
            raise WireError(f"request must be a message of the service, got {len(value)} bytes: {error}") from None
        answered: bytes = self._service.Rank(message, context).SerializeToString()
        return answered
