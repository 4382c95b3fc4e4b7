"""Checkpoint that replicas need while the guard holds updates: the newest one from before the hold."""

from __future__ import annotations

from collections.abc import Sequence

from monolith_py.errors import CheckpointError
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_py.sync.verdicts import held_verdict, is_allowed
from monolith_py.training import Checkpoint


def needed_by_hold(log: Log, topics: Topics, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the newest of `checkpoints`, newest first, that a guarded replica may load; none unless updates are held.

    A hold lasts until somebody ends it, so any number of checkpoints may follow that no replica may load.

    Raises:
        WireError: the newest verdict is damaged.
        LogError: the log cannot be reached.
    """
    verdict = held_verdict(log, topics.verdicts)
    if verdict is None:
        return []
    for one in checkpoints:
        try:
            if is_allowed(log, topics.updates, verdict, one.meta.updates_offset):
                return [one]
        except CheckpointError:  # nobody can start from it
            continue
    return []
