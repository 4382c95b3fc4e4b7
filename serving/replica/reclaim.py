"""Reclaiming of row ids: an unmapped row id is reused only after every reader that could hold it has finished."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from monolith_py.data.columns import Int64Array


class EpochReclaimer:
    """Counts readers by epoch. One writer retires and reclaims; any number of threads read.

    >>> reclaimer = EpochReclaimer()
    >>> with reclaimer.reading():
    ...     reclaimer.retire(np.array([7]))
    ...     held = reclaimer.reclaim()
    >>> held.tolist(), reclaimer.reclaim().tolist()
    ([], [7])
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = 0
        self._readers: dict[int, int] = {}  # epoch -> readers that entered in it and are still reading
        self._retired: deque[tuple[int, Int64Array]] = deque()  # epochs ascend

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep every row id that is mapped at the start from being reclaimed inside the block."""
        with self._lock:
            epoch = self._epoch
            self._readers[epoch] = self._readers.get(epoch, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[epoch] -= 1
                if not self._readers[epoch]:
                    del self._readers[epoch]

    def retire(self, ids: Int64Array) -> None:
        """Add row ids that the id map no longer holds."""
        if not len(ids):
            return
        with self._lock:
            self._retired.append((self._epoch, ids))
            self._epoch += 1

    def reclaim(self) -> Int64Array:
        """Return the retired row ids that no reader can hold, each once."""
        free = [np.empty(0, np.int64)]
        with self._lock:
            oldest = min(self._readers, default=self._epoch)
            while self._retired and self._retired[0][0] < oldest:
                free.append(self._retired.popleft()[1])
        return np.concatenate(free)
