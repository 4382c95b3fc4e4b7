"""Shadow process: `monolith shadow`, a second model that scores what the replicas have answered."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import LogError, TopicMissing
from monolith_py.io import open_log
from monolith_py.io.log.topics import Topics
from monolith_py.process import StopSignal, run_in_background, set_num_threads
from monolith_serving.log_limit import LogLimit
from monolith_serving.process import Follower
from monolith_serving.replica.device import device_of
from monolith_serving.replica.replica import Replica
from monolith_serving.replica.table import runs_core
from monolith_serving.shadow.shadow import Shadow

_logger = logging.getLogger(__name__)

_WAIT_S = 0.2
# Niceness of the thread that keeps the model up to date.
_NICENESS = 10
_RETRY_S = 0.5


def run_shadow(job: JobConfig) -> None:
    """Score mirrored requests until SIGTERM or SIGINT. For the main thread.

    It needs no store and no port, no replica waits for it, and it takes the CPU that others leave: each score may be
    `shadow.max_lag_s` late, no answer may. The model is loaded from `trainer.checkpoint_dir`
    and follows the topic of updates, or the checkpoints, as a replica's does.

    Raises:
        ConfigError: there is no such device.
        TopicMissing: a topic of the process does not exist.
    """
    config, clock = job.serving, SystemClock()
    os.nice(_NICENESS)
    device = device_of(config)
    set_num_threads(config.num_threads, with_torch=not runs_core(config.engine, device))
    topics = Topics.of(job.log)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal().installed())
        log, updates = open_log(job.log), open_log(job.log)
        for one in (log, updates):
            stack.callback(one.close)
        for topic in (topics.impressions, topics.updates, topics.dense_requests, topics.shadow_scores):
            log.num_partitions(topic)
        replica = Replica(job, updates if config.follow_updates else None, device, clock)
        stack.callback(replica.close)
        shadow, log_limit = Shadow(job, log, replica, clock), LogLimit(clock)
        follower = Follower(replica, stop)
        stack.callback(follower.close)
        _logger.info("scoring %g of the requests of %r as arm %r", job.shadow.share, topics.impressions, config.arm)
        run_in_background()
        while not stop.is_set():
            try:
                shadow.step(_WAIT_S)
            except TopicMissing:
                raise
            except LogError as error:
                if log_limit.allows(type(error).__name__):
                    _logger.warning("impressions cannot be read, will try again: %s", error)
                stop.wait(_RETRY_S)
        follower.raise_failure()
