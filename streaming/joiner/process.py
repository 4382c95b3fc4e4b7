"""The joiner's process: opens the log and the store, steps until a signal, writes its position before it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import ConfigError
from monolith_py.io import Kv, open_kv, open_log
from monolith_py.io.kv.durability import check_keeps_state
from monolith_py.io.retrying import RetryPolicy
from monolith_py.process import StopSignal
from monolith_streaming.joiner.gauges import JoinerGauges
from monolith_streaming.joiner.loop import JoinerLoop

_logger = logging.getLogger(__name__)

# A log may end in offsets without a record. Two rounds: the first may have skipped a topic that was ahead of the other.
_EMPTY_ROUNDS = 2


def run_joiner(job: JobConfig, *, stop_at_end: bool, force: bool = False) -> None:
    """Join until SIGTERM or SIGINT; with `stop_at_end` up to the current end of the log, then close every window and return.

    Several joiners of a job share its partitions. One with `stop_at_end` must be the only one; one with `force`, which starts although the
    state in the store does not follow the log, has all partitions at its start.

    Raises:
        ConfigError: the store does not outlive the process or evicts state, or the topics do not have the same number of partitions.
        AlreadyRunning: another joiner of the job runs, and `stop_at_end`.
        LogError: a topic is missing, or the log was away for too long (io/retrying.py).
        KvError: the store was away for too long.
        StateMismatch: the state in the store does not follow the log, and not `force`.
        Fenced: another joiner of the job with a store of its own has started; or one has taken a partition, and `stop_at_end`.
        ClockStepped: the wall clock went back.
    """
    if job.kv.url == "memory:":
        raise ConfigError("kv.url must be a store that outlives the joiner, which keeps its position there, got 'memory:'")
    with StopSignal().installed() as stop, closing(open_log(job.log)) as log, closing(_open_store(job, stop)) as kv:
        clock = SystemClock()
        with closing(JoinerLoop(job, log, kv, clock, stop.is_set)) as loop:
            loop.start(force=force, must_be_alone=stop_at_end)
            if stop_at_end:
                _join_to_end(loop, stop.is_set)
            else:
                gauges = JoinerGauges(loop, clock)
                while not stop.is_set():
                    gauges.step()
            loop.commit()
    _logger.info("joiner stopped, position written")


def _open_store(job: JobConfig, stop: StopSignal) -> Kv:
    """Return the store, once it can be opened and has shown that it keeps the state: a disk may be full for a while."""
    retry = RetryPolicy(SystemClock(), stop.is_set)
    kv = retry.run(lambda: open_kv(job.kv))
    try:
        retry.run(lambda: check_keeps_state(kv))
    except BaseException:
        kv.close()
        raise
    return kv


def _join_to_end(loop: JoinerLoop, should_stop: Callable[[], bool]) -> None:
    """Read up to the current end of the log, and what was forwarded meanwhile, then close every window."""
    num_forwarded = -1
    while num_forwarded != loop.num_forwarded:
        num_forwarded, ends, empty_rounds = loop.num_forwarded, loop.ends(), 0
        while not (loop.has_reached(ends) or empty_rounds == _EMPTY_ROUNDS):
            if should_stop():
                return
            empty_rounds = 0 if loop.step() or not loop.owns_its_share else empty_rounds + 1
        loop.commit()
    loop.close_all()
    if num_early := loop.num_early:
        _logger.warning("%d actions wait for impressions that are not in the log; a later run joins or refuses them", num_early)
