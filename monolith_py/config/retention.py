"""Settings of retention: deletion of records that no process needs any more."""

from __future__ import annotations

from monolith_py.config.fields import Seconds, SecondsOrZero, Settings


class RetentionConfig(Settings):
    """Deletion of records that joiner, trainer and replicas have used; rules in streaming/retention/bounds.py."""

    # true: the trainer deletes them; false: only `monolith trim --yes` does.
    trim: bool = False
    # Records with an event time younger than this stay, in seconds: the history for replays, backtests and new jobs.
    keep_s: SecondsOrZero = 604_800.0
    # Dead letters younger than this stay, in seconds: the time to look at them and to put them back.
    dead_letters_keep_s: SecondsOrZero = 2_592_000.0
    # Wall-clock seconds between two rounds of the trainer, each of which also measures the topics.
    interval_s: Seconds = 60.0
