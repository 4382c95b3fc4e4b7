"""Reads of a key-value store within a time limit, in a few threads of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from monolith_py.clock import Clock
from monolith_py.errors import KvError
from monolith_py.io import Kv

# A store that answers none of the reads in progress for this time is not asked again until it does.
_HUNG_S = 0.5
_CLOSE_S = 1.0


class _Read:
    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.done = threading.Event()
        self.abandoned = False
        self.values: list[bytes | None] = []
        self.error: Exception | None = None


class KvReader:
    """Reads `kv` in `num_threads` threads; a caller waits no longer than it wants. Safe for threads.

    A store that hangs holds these threads only. While all of them are stuck, reads fail at once.
    """

    def __init__(self, kv: Kv, num_threads: int, clock: Clock) -> None:
        self._kv, self._clock = kv, clock
        self._queue: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_busy, self._progress_s = 0, clock.monotonic_s()  # when a read last began or ended
        # Daemons: a store that hangs must not keep the process.
        self._threads = [threading.Thread(target=self._run, name=f"kv-{number}", daemon=True) for number in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def get_many(self, keys: Sequence[str], until_s: float) -> list[bytes | None]:
        """Return the value of each key, None for an absent one; `until_s` is on the monotonic clock.

        Raises:
            KvError: the store failed, or did not answer in time.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            stuck_s = now_s - self._progress_s
            if self._num_busy == len(self._threads) and stuck_s > _HUNG_S:
                raise KvError(f"the store has not answered for {stuck_s:.1f} s")
        read = _Read(keys)
        self._queue.put(read)
        if not read.done.wait(min(max(0.0, until_s - now_s), threading.TIMEOUT_MAX)):
            read.abandoned = True
            raise KvError(f"the store did not answer in {until_s - now_s:.3f} s")
        if read.error is not None:
            raise read.error
        return read.values

    def close(self) -> None:
        """End the threads; one that is stuck in the store is left behind."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (read := self._queue.get()) is not None:
            if read.abandoned:
                continue
            self._note_progress(1)
            try:
                read.values = self._kv.get_many(read.keys)
            except KvError as error:
                read.error = error
            except Exception as error:  # an error that the store does not map must not end the thread
                read.error = KvError(f"the store failed: {error!r}")
            self._note_progress(-1)
            read.done.set()

    def _note_progress(self, change: int) -> None:
        with self._lock:
            self._num_busy += change
            self._progress_s = self._clock.monotonic_s()
