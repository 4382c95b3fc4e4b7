"""Rounds of retention beside a process, in a thread of their own: measure the topics, delete what the job allows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing

from monolith_py.clock import Clock
from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, KvError, LogError, ObjectError, WireError
from monolith_py.io import Kv, Log
from monolith_py.io.log.topics import Topics
from monolith_py.observe import metrics
from monolith_py.process import StopSignal
from monolith_streaming.retention.bounds import safe_bounds
from monolith_streaming.retention.trimming import measure, trim

_logger = logging.getLogger(__name__)
_JOIN_S = 10.0


class RetentionRounds:
    """Measures the topics every `retention.interval_s`, and deletes with `retention.trim`; a failure is counted and tried again.

    A context manager: the thread runs inside the block.
    """

    def __init__(self, job: JobConfig, log: Log, open_store: Callable[[], Kv], clock: Clock) -> None:
        self._job, self._log, self._open_store, self._clock = job, log, open_store, clock
        self._stop = StopSignal()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def round(self) -> int:
        """Run one round and return the number of offsets deleted."""
        try:
            measure(self._log, Topics.of(self._job.log))
            if not self._job.retention.trim:
                return 0
            with closing(self._open_store()) as kv:
                bounds = safe_bounds(self._job, self._log, kv, self._clock.now_ms())
            return trim(self._log, bounds)
        except (LogError, KvError, WireError, ObjectError, CheckpointError) as error:
            metrics.TRIM_FAILURES.inc()
            _logger.warning("topics not measured or not trimmed, next attempt in %.0f s: %s", self._job.retention.interval_s, error)
            return 0

    def __enter__(self) -> RetentionRounds:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while not self._stop.wait(self._job.retention.interval_s):
            if deleted := self.round():
                _logger.info("retention: %d records deleted", deleted)
