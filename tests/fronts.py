"""Both fronts of a replica, for tests that hold for each; those of the C++ one are skipped where it was not built."""

from __future__ import annotations

import pytest

from monolith_py.clock import SystemClock
from monolith_py.config import ServingConfig
from monolith_py.pb import ranking_pb2_grpc
from monolith_serving.front import Front, PythonFront
from monolith_serving.front_cpp import CppFront, FrontParts, library
from monolith_serving.process import make_server

needs_cpp_front = pytest.mark.skipif(
    not library().exists(), reason="THE C++ FRONT IS NOT TESTED: the build found no libgrpc++ (Debian: libgrpc++-dev, pkg-config)"
)
FRONTS = ["python", pytest.param("cpp", marks=needs_cpp_front)]


class FreshReplica:
    """A replica that is ready, with a model of no age."""

    is_ready = is_fresh = True

    def staleness_ms(self) -> int:
        return 0

    def event_staleness_ms(self) -> int:
        return 0

    def behind_s(self) -> float:
        return 0.0


def front_of(kind: str, service: ranking_pb2_grpc.RankingServicer, config: ServingConfig) -> Front:
    """Return a front of a service in Python."""
    if kind == "cpp":
        return CppFront(FrontParts(service, FreshReplica(), None, None, None), config, SystemClock())
    return PythonFront(make_server(service, config, SystemClock()), config)
