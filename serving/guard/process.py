"""Guard process: `monolith guard`."""

from __future__ import annotations

import logging
from contextlib import closing

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.io import open_log
from monolith_py.io.log.topics import Topics
from monolith_py.process import StopSignal, set_num_threads
from monolith_serving.guard.guard import Guard
from monolith_serving.replica.device import device_of
from monolith_serving.replica.table import runs_core

_logger = logging.getLogger(__name__)


def run_guard(job: JobConfig, *, accept: int | None = None) -> None:
    """Judge updates until SIGTERM or SIGINT. For the main thread. Run one guard of a job.

    With `accept`, the offset from which on updates are held, the present version counts as good.

    Raises:
        ConfigError: there is no such device.
        TopicMissing: a topic of the process does not exist.
    """
    clock = SystemClock()
    device = device_of(job.serving)
    set_num_threads(job.serving.num_threads, with_torch=not runs_core(job.serving.engine, device))
    topics = Topics.of(job.log)
    with StopSignal().installed() as stop, closing(open_log(job.log)) as log:
        for topic in (topics.updates, topics.examples, topics.dense_requests, topics.verdicts):
            log.num_partitions(topic)
        guard = Guard(job, log, device, clock, accept=accept)
        _logger.info("judging the updates of %r, %s", topics.updates, "held" if guard.verdict.held else "not held")
        guard.replica.follow(stop)
