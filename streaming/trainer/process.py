"""The trainer's process: opens the log, trains until a signal, writes a checkpoint before it ends."""

from __future__ import annotations

import logging
from contextlib import closing

from monolith_py import _core
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError
from monolith_py.io import open_kv, open_log
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from monolith_py.io.role_lock import role_lock
from monolith_py.process import StopSignal, set_num_threads
from monolith_py.training import local_folder
from monolith_streaming.retention import RetentionRounds
from monolith_streaming.trainer.loop import OnlineTraining
from monolith_streaming.trainer.start import RESUME, StartOptions

_logger = logging.getLogger(__name__)


def run_trainer(job: JobConfig, *, stop_at_end: bool, options: StartOptions = RESUME) -> None:
    """Train until SIGTERM or SIGINT; with `stop_at_end` up to the current end of the log.

    Raises:
        AlreadyRunning: another trainer writes to the folder of checkpoints.
        CheckpointError: no checkpoint can be written, or `start_trainer` refuses.
        ClockStepped: the wall clock went back, so sound examples would be put aside.
        StepsMissing: topic `examples` has a hole, and no option accepts it.
        LogError: a topic is missing, or the log was away for too long (io/retrying.py).
        ModelNotFinite: a parameter or row is NaN or infinite.
    """
    set_num_threads(job.trainer.num_threads)
    _core.keep_freed_memory()
    clock = SystemClock()
    lock = role_lock(local_folder(job) / ".trainer.lock", "trainer", CheckpointError)
    with lock, StopSignal().installed() as stop, closing(open_log(job.log)) as log:
        training = OnlineTraining(job, RetryingLog(log, RetryPolicy(clock, stop.is_set)), clock, stop.is_set, options)
        with RetentionRounds(job, log, lambda: open_kv(job.kv), clock):
            training.run(stop_at_end=stop_at_end)
    _logger.info("trainer stopped, all %d examples are in its newest checkpoint", training.trainer.num_examples)
