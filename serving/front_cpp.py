"""Front of a replica in C++: a gRPC server of the system's libgrpc++, which calls the core without Python.

It answers what the core can answer at once. `serving/front_calls.py` answers the rest; a thread here takes over the impressions of
answered requests, counts, and tells the server of new models and certificates.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from pathlib import Path
from typing import NamedTuple

import grpc

from monolith_py import _core
from monolith_py.clock import Clock
from monolith_py.config import ServingConfig
from monolith_py.errors import ConfigError
from monolith_py.observe.metrics import IMPRESSIONS_LOST, IMPRESSIONS_WITHHELD, RANK_CANDIDATES, RANK_DURATION_SECONDS, RANK_REQUESTS
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_serving.call_threads import RECEIVE_S
from monolith_serving.channel import ALLOWED_PING_INTERVAL_MS, HEALTH_SERVICE
from monolith_serving.core_service import CoreService
from monolith_serving.front_calls import FrontCalls
from monolith_serving.ranking.answered import MAX_DEADLINE_S
from monolith_serving.ranking.core_ranker import CoreRanker
from monolith_serving.ranking.impression_encoder import ServedRequest
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.replica.replica import Replica
from monolith_serving.security import Pems, ServerCertificates, expected_tokens

_logger = logging.getLogger(__name__)

# The thread looks for new certificates and sets the ages of the model this often; ended calls gather for the second time.
_INTERVAL_S = 0.1
_LINGER_S = 0.005
_CODES = [code.name for code in sorted(grpc.StatusCode, key=lambda code: code.value[0])]
_PACKAGES = "libgrpc++-dev and pkg-config of Debian"


class FrontParts(NamedTuple):
    """Parts of a replica behind its front; without `ranker` all calls go to `service`."""

    service: pb_grpc.RankingServicer
    replica: Replica
    ranker: CoreRanker | None
    core: CoreService | None
    impressions: ImpressionWriter[ServedRequest | _core.RankedRequest] | None


def library() -> Path:
    """Return the path of the server's library, which the build makes where it finds libgrpc++."""
    return Path(_core.__file__).with_name("_front.so")


class CppFront:
    """The server in C++, with health checks on it and on `serving.health_port`; see `Front`."""

    def __init__(self, parts: FrontParts, config: ServingConfig, clock: Clock) -> None:
        """Prepare the server.

        Raises:
            ConfigError: it was not built, a certificate cannot be used, or tokens are missing.
        """
        if not library().exists():
            raise ConfigError(f"serving.front must be 'python' in a build without libgrpc++ ({_PACKAGES}), got 'cpp'")
        self._parts, self._config, self._clock = parts, config, clock
        has_certificate = config.security.certificate_file is not None
        self._certificates = ServerCertificates(config.security) if has_certificate else None
        self._tokens = expected_tokens(config)
        ranker = None if parts.ranker is None else parts.ranker.core
        limits = config.max_waiting_requests, config.impression_queue_bytes, parts.impressions is not None
        self._front = _core.RankFront(ranker, limits, uuid.uuid4().hex[:16], RANK_DURATION_SECONDS.bounds)
        self._closing, self._setting = threading.Event(), threading.Lock()
        self._calls: FrontCalls | None = None
        self._must_set = False
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> int:
        """Listen and answer; return the port. See `Front`."""
        config, parts = self._config, self._parts
        num_threads = config.front_threads or len(os.sched_getaffinity(0))
        health_address = f"{config.host}:{config.health_port}" if config.health_port else ""
        try:
            port = self._front.start(
                str(library()),
                (HEALTH_SERVICE, f"{config.host}:{config.port}", health_address),
                (num_threads, config.max_waiting_requests, config.max_request_bytes, ALLOWED_PING_INTERVAL_MS),
                (config.default_deadline_s, MAX_DEADLINE_S, RECEIVE_S),
                self._tokens,
                None if self._certificates is None else _texts(self._certificates.pems),
            )
        except RuntimeError as error:  # a port that is taken, or a library that the system lacks
            where = f"{config.host}:{config.port}, health_port {config.health_port}"
            rule = "serving.host, port and health_port must be free to listen on, and libgrpc++ be there"
            raise ConfigError(f"{rule}, got {where}: {error}") from None
        self._calls = FrontCalls(self._front, parts.service, parts.core, config.grpc_threads, self._clock)
        if parts.ranker is not None:
            parts.replica.on_change = self._set_model
            if parts.replica.is_ready:
                self._set_model()
        self._thread.start()
        return port

    def set_serving(self, is_serving: bool) -> None:
        """Set the answer of health checks."""
        self._front.set_serving(is_serving)

    def begin_drain(self) -> None:
        """Answer health checks NOT_SERVING from now on."""
        self._front.begin_drain()

    def stop(self, finish_s: float) -> None:
        """Refuse new calls, end those in progress within `finish_s`, and queue their impressions."""
        self._front.stop(finish_s)
        self._closing.set()
        self._front.close()
        self._thread.join()
        assert self._calls is not None
        self._calls.join()

    def _set_model(self) -> None:
        """Hand the replica's newest model to the server."""
        assert self._parts.ranker is not None
        with self._setting:  # an older model never comes after a newer one
            try:
                state, model = self._parts.ranker.current()
            except MemoryError:  # the model before it serves on; the next delta, or the thread, tries again
                _logger.exception("the newest model does not fit the memory")
                self._must_set = True
                return
            self._must_set = False
            rows = state.table.core
            assert rows is not None, "the front has a ranker where rows are in the core alone"
            self._set_ages()
            self._front.set_model(model, rows, state.version)

    def _set_ages(self) -> None:
        replica, clock = self._parts.replica, self._clock
        event_ms = replica.event_staleness_ms()
        born_ms = int(clock.monotonic_s() * 1000) - replica.staleness_ms()
        self._front.set_ages(born_ms, clock.now_ms() - event_ms if event_ms else 0)

    def _run(self) -> None:
        """Take over ended calls until the stop."""
        is_last = False
        while not is_last:
            is_last = self._closing.is_set()
            try:
                self._take_over()
            except Exception:  # without the thread all later impressions would be lost
                _logger.exception("the front's thread goes on after an error")

    def _take_over(self) -> None:
        self._take_ended()
        self._count()
        self._set_ages()
        if self._must_set:
            self._set_model()
        if self._certificates is not None:
            pems = self._certificates.reread()
            if pems is not None:
                self._front.set_certificates(_texts(pems))

    def _take_ended(self) -> None:
        requests, answers = self._front.take_ended(_INTERVAL_S, _LINGER_S)
        assert self._calls is not None
        for number, is_answered in answers:
            self._calls.note_ended(number, is_answered)
        if self._parts.impressions is not None:
            for ranked in requests:
                self._parts.impressions.put(ranked, ranked.num_bytes)

    def _count(self) -> None:
        codes, durations, duration_s, candidates, withheld, lost = self._front.take_counts()
        for name, count in zip(_CODES, codes, strict=True):
            if count:
                RANK_REQUESTS.labels(code=name).inc(count)
        RANK_DURATION_SECONDS.add(durations, duration_s)
        RANK_CANDIDATES.inc(candidates)
        for reason, count in zip(("request", "features", "unanswered"), withheld, strict=True):
            if count:
                IMPRESSIONS_WITHHELD.labels(reason=reason).inc(count)
        if lost:
            IMPRESSIONS_LOST.labels(reason="queue").inc(lost)


def _texts(pems: Pems) -> tuple[str, str, str]:
    """Return the PEMs as text; OpenSSL skips what is between the blocks, for instance names in any encoding."""
    chain, key, authorities = (content.decode(errors="replace") for content in (pems.chain, pems.key, pems.client_authorities or b""))
    return chain, key, authorities
