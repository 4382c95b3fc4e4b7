"""Event time of a trainer: the time by which rows expire, which one example cannot move."""

from __future__ import annotations

import numpy as np

from monolith_py.data.columns import Int64Array

# Most that one example may move event time: one among few ages the rows by an hour, not by all of the error of its clock.
_MOST_STEP_MS = 3_600_000


def advanced_ms(watermark_ms: int, times_ms: Int64Array) -> int:
    """Return the event time after a batch of examples at `times_ms`, given the one before it (0 before the first batch).

    It is the median of the batch, at most an hour an example after the one before, and never goes back. So an example whose clock is hours
    ahead of a backlog expires no row, and after hours of silence event time is right again within one full batch. It depends on the batches
    alone: a trainer that restarts from a checkpoint expires the same rows.

    >>> advanced_ms(1_000, np.array([2_000, 3_000, 28_800_000]))
    3000
    """
    middle = (len(times_ms) - 1) // 2
    median_ms = int(np.partition(times_ms, middle)[middle])
    if watermark_ms:
        median_ms = min(median_ms, watermark_ms + _MOST_STEP_MS * len(times_ms))
    return max(watermark_ms, median_ms)
