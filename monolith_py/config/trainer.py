"""Settings of the online trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from monolith_py.config.fields import Count, FilePath, Seconds, SecondsOrZero, Settings, Threads


class TrainerConfig(Settings):
    """The online trainer."""

    renamed: ClassVar[Mapping[str, str]] = {
        "max_wait_s": "linger_s",
    }

    # Examples of a training step.
    batch_size: Count = 256
    # Least wall-clock seconds from a training step to the next one with a smaller batch; after a pause the first examples do not wait.
    linger_s: SecondsOrZero = 0.02
    # Folder of the job's checkpoints, read by the replicas too; or s3://BUCKET/PREFIX, see [objects].
    checkpoint_dir: FilePath
    # Wall-clock seconds between checkpoints.
    checkpoint_interval_s: Seconds = 60.0
    # One of so many checkpoints is written as a whole; the others write the rows changed since the one before and link its files. Replicas
    # that start from these read the trainer's tables, which takes longer than packed rows. Only in a folder.
    checkpoint_full_interval: Annotated[int, Field(ge=1, le=1000)] = 1
    # Number of checkpoints kept; older ones are deleted, unless a process reads them or the guard holds all newer ones.
    checkpoints_kept: Count = 3
    # Wall-clock seconds for which a checkpoint is kept at least, by the time it was saved.
    checkpoints_kept_s: SecondsOrZero = 0.0
    # Wall-clock seconds between two lines of the log with the figures of quality, which also renew the gauges.
    report_interval_s: Seconds = 5.0
    # Event-time seconds between evictions of expired rows.
    evict_interval_s: Seconds = 3600.0
    # Memory of the process in bytes, near which the rows of least priority go from all tables; 0 for no limit. If left out that of the
    # control group, cgroup v1 or v2, which a container has.
    memory_limit_bytes: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] | None = None
    # Threads of the tables and of torch; 0 takes all cores.
    num_threads: Threads = 0
