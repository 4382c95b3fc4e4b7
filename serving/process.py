"""Replica process: Rank, health and reflection over gRPC, a thread that follows the updates, a clean stop on SIGTERM."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from monolith_py._core import RankedRequest
from monolith_py.clock import Clock, SystemClock
from monolith_py.config import JobConfig, ServingConfig
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import EventTimeRule
from monolith_py.data.schema import Schema
from monolith_py.errors import ConfigError
from monolith_py.io import Log, open_kv, open_log
from monolith_py.io.log.topics import Topics
from monolith_py.pb import ranking_pb2_grpc as pb_grpc
from monolith_py.process import StopSignal, set_num_threads
from monolith_serving.call_threads import CallThreads
from monolith_serving.channel import SERVER_OPTIONS
from monolith_serving.core_service import CoreService
from monolith_serving.direct_server import DirectServer, missing_parts
from monolith_serving.features.store import FeatureStore
from monolith_serving.front import HEALTH_THREADS, Front, PythonFront
from monolith_serving.front_cpp import CppFront, FrontParts
from monolith_serving.interceptors import StatusInterceptor, ThreadsInterceptor
from monolith_serving.ranking.core_ranker import CoreRanker, runs_in_core
from monolith_serving.ranking.impression_encoder import ImpressionEncoder, ServedRequest
from monolith_serving.ranking.impression_log import ImpressionWriter
from monolith_serving.ranking.ranker import Ranker
from monolith_serving.replica.device import device_of
from monolith_serving.replica.replica import Replica
from monolith_serving.replica.table import runs_core
from monolith_serving.security import token_interceptors
from monolith_serving.service import SERVICE_NAME, RankingService
from monolith_serving.shadow.split import SplitService, arm_of, second_job

_logger = logging.getLogger(__name__)

# Time for the requests in progress once new ones are refused.
_FINISH_S = 5.0
# Threads of the other services: they share none with Rank.
_REFLECTION_THREADS = 2
# A reflection stream serves one look at the service; a client that holds it for longer is cut off.
_REFLECTION_S = 10.0
_HEALTH_INTERVAL_S = 0.1
# Threads that receive calls: the GIL lets no more of them work at the same time, with 500 candidates a call.
_MOST_SERVER_THREADS = 4


def run_server(job: JobConfig) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress and log their impressions. For the main thread.

    Raises:
        ConfigError: the port is taken, or there is no such device.
        TopicMissing: a topic of the replica does not exist.
    """
    config, clock = job.serving, SystemClock()
    device = device_of(config)
    set_num_threads(config.num_threads, with_torch=not runs_core(config.engine, device))
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal().installed())
        # One log each: a read that waits for updates must not delay the append of impressions.
        topics = Topics.of(job.log)
        needed = [topics.updates, topics.dense_requests, *([topics.verdicts] if config.guarded else [])]
        updates = _open_topics(job, needed, stack) if config.follow_updates else None
        replica = Replica(job, updates, device, clock)
        stack.callback(replica.close)
        impressions: ImpressionWriter[ServedRequest | RankedRequest] | None = None
        if config.log_impressions:
            impressions_log = _open_topics(job, [topics.impressions], stack)
            impressions = ImpressionWriter(impressions_log, topics.impressions, config, clock, ImpressionEncoder(job))
            stack.callback(impressions.close)
        kv = open_kv(job.kv)
        stack.callback(kv.close)
        store = FeatureStore(kv, Schema.of(job), LiveCounters.of(job), config, clock)
        stack.callback(store.close)
        ranker = Ranker(job, replica, store, impressions, clock)
        follower = Follower(replica, stop)
        stack.callback(follower.close)
        first = RankingService(ranker, replica, Schema.of(job).tasks, config, clock, EventTimeRule.of(job.log))
        service = _split(job, first, store, stop, stack) if config.split.share else first
        core_ranker = CoreRanker(job, replica, store, impressions, clock) if device.type == "cpu" and runs_in_core(job) else None
        core = None if core_ranker is None else CoreService(core_ranker, config, clock)
        front = _front_of(FrontParts(service, replica, core_ranker, core, impressions), config, clock)
        _serve(front, replica, config, stop, clock, core)
        stop.set()
        follower.raise_failure()


def _front_of(parts: FrontParts, config: ServingConfig, clock: Clock) -> Front:
    """Return the front of the settings, not started.

    Raises:
        ConfigError: it is the C++ one, which was not built, or the core does not rank the requests of the job.
    """
    if config.front == "python":
        return PythonFront(make_server(parts.service, config, clock, parts.core), config)
    if parts.ranker is None:
        raise ConfigError("serving.front must be 'python' for a job that the core does not rank on this device, got 'cpp'")
    return CppFront(parts, config, clock)


def _split(job: JobConfig, first: RankingService, store: FeatureStore, stop: StopSignal, stack: ExitStack) -> SplitService:
    """Return the service that sends a share of users to the second model, whose updates a thread follows; `stack` ends both."""
    other, clock = second_job(job), SystemClock()
    arm, topics, config = arm_of(job, other), Topics.of(other.log), other.serving
    needed = [topics.updates, topics.dense_requests, *([topics.verdicts] if config.guarded else [])]
    replica = Replica(other, _open_topics(other, needed, stack) if config.follow_updates else None, device_of(config), clock)
    stack.callback(replica.close)
    impressions = None
    if job.serving.log_impressions:
        topic = Topics.of(job.log).impressions
        impressions = ImpressionWriter(_open_topics(job, [topic], stack), topic, arm.serving, clock, ImpressionEncoder(arm))
        stack.callback(impressions.close)
    stack.callback(Follower(replica, stop).raise_failure)
    ranker = Ranker(arm, replica, store, impressions, clock, Schema.of(other))
    second = RankingService(ranker, replica, Schema.of(job).tasks, arm.serving, clock, EventTimeRule.of(job.log))
    return SplitService(job.serving.split, first, second, replica)


class Follower:
    """Thread in which a replica follows the updates. An error that ends it stops the process."""

    def __init__(self, replica: Replica, stop: StopSignal) -> None:
        self._replica, self._stop = replica, stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def raise_failure(self) -> None:
        """Stop the thread and raise the error that ended it, if there is one."""
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
    """Return a log that has `topics`; `stack` closes it."""
    log = open_log(job.log)
    stack.callback(log.close)
    for topic in topics:
        log.num_partitions(topic)
    return log


def make_server(service: pb_grpc.RankingServicer, config: ServingConfig, clock: Clock, core: CoreService | None = None) -> grpc.Server:
    """Return a gRPC server with the ranking service, without a port and not started. `core` answers the requests that it takes."""
    threads = CallThreads(config.grpc_threads, "rank", sheds=True)
    others = {
        health.SERVICE_NAME: CallThreads(HEALTH_THREADS, "health"),
        reflection.SERVICE_NAME: CallThreads(_REFLECTION_THREADS, "reflection", limit_s=_REFLECTION_S),
    }
    interceptors: list[grpc.ServerInterceptor[Any, Any]] = [
        *token_interceptors(config),
        ThreadsInterceptor(others),
        StatusInterceptor(SERVICE_NAME, threads, config.max_waiting_requests, clock, {} if core is None else {"Rank": core.in_core}),
    ]
    options = [*SERVER_OPTIONS, ("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", config.max_request_bytes)]
    if missing := missing_parts():
        _logger.warning("calls take more CPU time: grpcio %s lacks %s", grpc.__version__, ", ".join(missing))
        server = grpc.server(threads, interceptors=interceptors, options=options)
    else:
        server = DirectServer(threads, interceptors, options, min(len(os.sched_getaffinity(0)), _MOST_SERVER_THREADS))
    pb_grpc.add_RankingServicer_to_server(service, server)
    if config.reflection:
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _serve(front: Front, replica: Replica, config: ServingConfig, stop: StopSignal, clock: Clock, core: CoreService | None = None) -> None:
    """Answer requests until `stop`, then finish the ones in progress."""
    port = front.start()
    _logger.info("listening on %s:%d", config.host, port)
    try:
        healthy = announced = False
        while not stop.wait(_HEALTH_INTERVAL_S):
            if core is not None:
                core.keep_up()
            if replica.is_ready and not announced and config.port_file is not None:
                _write_whole(Path(config.port_file), str(port))
                announced = True
            now_healthy = is_healthy(replica, config)
            if now_healthy != healthy:
                healthy = now_healthy
                front.set_serving(healthy)
                word = "SERVING" if healthy else "NOT_SERVING"
                _logger.info("health: %s, %.1f s stale, %.1f s behind", word, replica.staleness_ms() / 1000, replica.behind_s())
    finally:
        # Balancers see NOT_SERVING and send their next requests elsewhere; those on their way are answered.
        front.begin_drain()
        clock.sleep(config.drain_s)
        front.stop(_FINISH_S)
    _logger.info("stopped")


def is_healthy(replica: Replica, config: ServingConfig) -> bool:
    """Return whether the replica has a model, keeps up with the updates, and its newest delta is not older than `max_staleness_s`.

    Updates that the guard holds do not count: the last good version serves.
    """
    is_young = config.max_staleness_s == 0 or replica.staleness_ms() <= config.max_staleness_s * 1000
    return replica.is_ready and replica.is_fresh and (is_young or replica.is_held)


def _write_whole(path: Path, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    staging = path.with_name(f"{path.name}~")
    staging.write_text(text)
    staging.replace(path)
