"""Front of a replica: the gRPC server that takes calls. This one is grpcio's; `serving/front_cpp.py` has the one in C++."""

from __future__ import annotations

from typing import Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from monolith_py.config import ServingConfig
from monolith_py.errors import ConfigError
from monolith_serving.call_threads import CallThreads
from monolith_serving.channel import HEALTH_SERVICE
from monolith_serving.security import listen

HEALTH_THREADS = 2


class Front(Protocol):
    """A server of Rank and of health checks, NOT_SERVING at first."""

    def start(self) -> int:
        """Listen and answer; return the port.

        Raises:
            ConfigError: a port is taken, or a certificate cannot be used.
        """

    def set_serving(self, is_serving: bool) -> None:
        """Set the answer of health checks."""

    def begin_drain(self) -> None:
        """Answer health checks NOT_SERVING from now on."""

    def stop(self, finish_s: float) -> None:
        """Refuse new calls, end those in progress within `finish_s`, and hand over their impressions."""


class PythonFront:
    """The server of grpcio, with health checks on it and on `serving.health_port`."""

    def __init__(self, server: grpc.Server, config: ServingConfig) -> None:
        self._server, self._config = server, config
        self._health = health.HealthServicer()
        self._probes: grpc.Server | None = None

    def start(self) -> int:
        """Listen and answer; return the port. See `Front`."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        port = listen(self._server, self._config)
        self._probes = self._probe_server()
        self.set_serving(False)
        self._server.start()
        return port

    def set_serving(self, is_serving: bool) -> None:
        """Set the answer of health checks."""
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", HEALTH_SERVICE):
            self._health.set(name, status)

    def begin_drain(self) -> None:
        """Answer health checks NOT_SERVING from now on."""
        self._health.enter_graceful_shutdown()

    def stop(self, finish_s: float) -> None:
        """Refuse new calls and end those in progress within `finish_s`."""
        self._server.stop(finish_s).wait()
        if self._probes is not None:
            self._probes.stop(None).wait()

    def _probe_server(self) -> grpc.Server | None:
        """Return a running server of health checks alone; None without a port for it.

        Raises:
            ConfigError: the port is taken.
        """
        config = self._config
        if not config.health_port:
            return None
        server = grpc.server(CallThreads(HEALTH_THREADS, "probes"), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            server.add_insecure_port(f"{config.host}:{config.health_port}")
        except RuntimeError as error:
            raise ConfigError(f"serving.health_port must be free to listen on, got {config.health_port}: {error}") from None
        server.start()
        return server
