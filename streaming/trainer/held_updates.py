"""Checkpoint that guarded replicas need: the newest good one, whatever the trainer has written since."""

from __future__ import annotations

from collections.abc import Sequence

from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError, TopicMissing
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.sync.verdicts import is_allowed, newest_verdict
from monolith_py.training import Checkpoint


def needed_by_guard(job: JobConfig, log: Log, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the newest of `checkpoints`, newest first, that a guarded replica may load; none if no replica is guarded and nothing is held.

    A hold lasts until somebody ends it, so any number of checkpoints may follow that no replica may load. The newest one may not have been
    judged yet, so the good one is also needed before a hold.

    Raises:
        WireError: the newest verdict is damaged.
        LogError: the log cannot be reached.
    """
    topics = Topics.of(job.log)
    try:
        verdict = newest_verdict(log, topics.verdicts)
    except TopicMissing:
        return []
    if verdict is None or not (verdict.held or job.serving.guarded):
        return []
    for one in checkpoints:
        try:
            if is_allowed(log, topics.updates, verdict, one.meta.updates_offset):
                return [one]
        except CheckpointError:  # nobody can start from it
            continue
    return []
