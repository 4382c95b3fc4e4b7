"""Estimate of the time that requests need, to refuse those that cannot be answered in time before any work is done on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from monolith_py.errors import Overloaded
from monolith_serving.features.request_features import RequestFeatures

# Work is counted in fids to look up. A batch costs as much as 2,000 of them whatever its size, a candidate in the model as much as 64:
# measured at 36 features with towers 256-128-64.
_WORK_PER_BATCH = 2000
_WORK_PER_CANDIDATE = 64
_OBSERVATIONS = 16


def work_of(group: Sequence[RequestFeatures]) -> int:
    """Return the work of scoring some requests as one batch."""
    return _WORK_PER_BATCH + sum(one.num_fids + _WORK_PER_CANDIDATE * len(one.candidates) for one in group)


class WorkLimit:
    """Admits requests whose work, after the work admitted before, fits their time. Safe for threads.

    A fid's time is the shortest of the last 16 observations: only what surely comes too late is refused. After 16 refusals without a new
    observation they are forgotten, so a false estimate does not last.

    >>> limit = WorkLimit()
    >>> limit.note(1_000, 0.1)
    >>> with limit.admitted(500, left_s=0.06):
    ...     with limit.admitted(500, left_s=0.06):
    ...         pass
    Traceback (most recent call last):
    monolith_py.errors.Overloaded: request would take 0.100 s with those before it, its deadline is in 0.060 s
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = 0
        self._num_refused = 0  # since the last observation
        self._seconds_per_work: deque[float] = deque(maxlen=_OBSERVATIONS)

    @contextmanager
    def admitted(self, work: int, left_s: float) -> Iterator[None]:
        """Hold `work` as pending inside the block.

        Raises:
            Overloaded: the work would not be done in `left_s`.
        """
        with self._lock:
            expected_s = (self._pending + work) * min(self._seconds_per_work, default=0.0)
            if expected_s > left_s:
                self._num_refused += 1
                if self._num_refused >= _OBSERVATIONS:
                    self._seconds_per_work.clear()
                raise Overloaded(f"request would take {expected_s:.3f} s with those before it, its deadline is in {left_s:.3f} s")
            self._pending += work
        try:
            yield
        finally:
            with self._lock:
                self._pending -= work

    def note(self, work: int, duration_s: float) -> None:
        """Note that `work` took `duration_s`."""
        with self._lock:
            self._seconds_per_work.append(duration_s / work)
            self._num_refused = 0
