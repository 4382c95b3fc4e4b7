"""The command `monolith load`: opens log and store, loads the tables once."""

from __future__ import annotations

from contextlib import closing

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.errors import ConfigError
from monolith_py.io import open_kv, open_log
from monolith_py.io.retrying import RetryingKv, RetryingLog, RetryPolicy
from monolith_streaming.load.load import LoadOptions, LoadResult, Tables, load_tables


def run_load(job: JobConfig, tables: Tables, options: LoadOptions) -> LoadResult:
    """Load `tables` into the log and store of `job` (`load_tables`).

    Raises:
        ConfigError: the store does not outlive the process.
    """
    if job.kv.url == "memory:":
        raise ConfigError("kv.url must be a store that outlives the load, got 'memory:'")
    clock = SystemClock()
    retry = RetryPolicy(clock)
    with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
        return load_tables(job, tables, RetryingLog(log, retry), RetryingKv(kv, retry), clock, options)
