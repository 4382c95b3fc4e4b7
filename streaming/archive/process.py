"""The archiver's process: opens the log, archives up to its present end or until a signal."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.io import open_log
from monolith_py.io.archive import ArchiveFolder
from monolith_py.io.retrying import RetryingLog, RetryPolicy
from monolith_py.process import StopSignal
from monolith_streaming.archive.archiver import Archiver

_logger = logging.getLogger(__name__)


def run_archiver(job: JobConfig, path: Path, *, follow: bool, interval_s: float = 60.0, compacts: bool = False) -> None:
    """Archive the topics of `job` in the folder `path` up to their present ends; with `follow` until SIGTERM or SIGINT.

    A run continues the one before it. With `follow` new records are in files after at most `interval_s`. With `compacts` the files of old
    hours become one a partition.

    Raises:
        AlreadyRunning: another archiver writes to the folder.
        ArchiveError: the folder is the archive of another job, or cannot be written.
        LogError: a topic is missing, or the log was away for too long (io/retrying.py).
    """
    clock, folder = SystemClock(), ArchiveFolder(path)
    with folder.lock(), StopSignal().installed() as stop, closing(open_log(job.log)) as log:
        archiver = Archiver(job, RetryingLog(log, RetryPolicy(clock, stop.is_set)), folder, clock, interval_s, compacts=compacts)
        if follow:
            archiver.follow(stop.is_set)
        else:
            num = archiver.archive(archiver.ends(), stop.is_set)
            _logger.info("%d records archived", num)
