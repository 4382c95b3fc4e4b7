"""The replica process: Rank, health and reflection over gRPC, the follower of updates beside it, a clean stop on SIGTERM."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig, ServingConfig
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import Log, open_kv, open_log
from monolith_py.io.log.topics import Topics
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_py.process import StopSignal, set_num_threads
from monolith_serving.features.store import FeatureStore
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.replica.replica import Replica
from monolith_serving.service import SERVICE_NAME, RankingService

logger = logging.getLogger(__name__)

# Requests that are being ranked get this long when the process is told to stop.
_DRAIN_S = 5.0
_HEALTH_INTERVAL_S = 0.1


def run_server(job: JobConfig) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests at hand, log their impressions and return. For the main thread.

    Raises:
        ConfigError: the port is taken, or the device is not there.
        TopicMissing: a topic that the replica needs does not exist.
    """
    config, clock = job.serving, SystemClock()
    set_num_threads(config.num_threads)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal().installed())
        # The follower waits for updates while impressions are appended: a log for each.
        topics = Topics.of(job.log)
        updates = _open_topics(job, [topics.updates, topics.dense_requests], stack) if config.follow_updates else None
        replica = Replica(job, updates, device_of(config), clock)
        stack.callback(replica.close)
        impressions = None
        if config.log_impressions:
            impressions = ImpressionWriter(_open_topics(job, [topics.impressions], stack), topics.impressions, clock)
            stack.callback(impressions.close)
        kv = open_kv(job.kv.url)
        stack.callback(kv.close)
        store = FeatureStore(kv, Schema.of(job), job.counters, config, clock)
        ranker = Ranker(job, replica, store, impressions, clock)
        follower = Follower(replica, stop)
        stack.callback(follower.close)
        _serve(RankingService(ranker, replica, Schema.of(job).tasks, config, clock), replica, config, stop)
        stop.set()
        follower.raise_failure()


def device_of(config: ServingConfig) -> torch.device:
    """Return the device to rank on: CUDA where there is one and the settings allow it.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("serving.device must be 'auto' or 'cpu' on a machine without CUDA, got 'cuda'")
    use_cuda = config.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


class Follower:
    """The thread in which a replica follows the updates; if that fails for good, it tells the process to stop."""

    def __init__(self, replica: Replica, stop: StopSignal) -> None:
        self._replica, self._stop = replica, stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the thread; the stop event must be set or follow soon."""
        self._stop.set()
        self._thread.join()

    def raise_failure(self) -> None:
        """Raise what ended the thread, if anything did."""
        self.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._replica.follow(self._stop)
        except BaseException as error:
            self._failure = error
            self._stop.set()


def _open_topics(job: JobConfig, topics: Sequence[str], stack: ExitStack) -> Log:
    """Return a log in which `topics` exist; it is closed with `stack`."""
    log = open_log(job.log.url)
    stack.callback(log.close)
    for topic in topics:
        log.num_partitions(topic)
    return log


def _serve(service: RankingService, replica: Replica, config: ServingConfig, stop: StopSignal) -> None:
    """Answer requests until `stop`, then let those at hand finish."""
    server = grpc.server(ThreadPoolExecutor(config.grpc_threads, thread_name_prefix="rank"), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_RankingServicer_to_server(service, server)
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError as error:
        raise ConfigError(f"serving.host and serving.port must be free to listen on, got {config.host}:{config.port}: {error}") from None
    _set_health(health_servicer, serving=False)
    server.start()
    logger.info("listening on %s:%d", config.host, port)
    try:
        healthy = announced = False
        while not stop.wait(_HEALTH_INTERVAL_S):
            if replica.is_ready and not announced and config.port_file is not None:
                _write_whole(Path(config.port_file), str(port))
                announced = True
            now_healthy = _is_healthy(replica, config)
            if now_healthy != healthy:
                healthy = now_healthy
                _set_health(health_servicer, serving=healthy)
                logger.info("health: %s, %.1f s stale", "SERVING" if healthy else "NOT_SERVING", replica.staleness_ms() / 1000)
    finally:
        health_servicer.enter_graceful_shutdown()
        server.stop(_DRAIN_S).wait()
    logger.info("stopped")


def _is_healthy(replica: Replica, config: ServingConfig) -> bool:
    fresh = config.max_staleness_s == 0 or replica.staleness_ms() <= config.max_staleness_s * 1000
    return replica.is_ready and fresh


def _set_health(servicer: health.HealthServicer, *, serving: bool) -> None:
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", SERVICE_NAME):
        servicer.set(name, status)


def _write_whole(path: Path, text: str) -> None:
    """Write a file that others never see half of."""
    staging = path.with_name(f"{path.name}~")
    staging.write_text(text)
    staging.replace(path)
