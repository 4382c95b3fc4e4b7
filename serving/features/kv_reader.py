"""Reads of a key-value store within a time limit, in a few threads of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence

from monolith_py.clock import Clock
from monolith_py.errors import KvError
from monolith_py.io import Kv

# A store that answers none of the reads in progress for this time is not asked again until it does. A read that takes this long is not
# joined: a connection of its own may be stuck.
_HUNG_S = 0.5
_CLOSE_S = 1.0
# A store is not asked with less time than this: a hand-over between threads and a round trip take about as long.
_LEAST_S = 0.001


class _Read:
    """One read of the store, and the callers that wait for it."""

    def __init__(self, keys: list[str], begin_s: float) -> None:
        self.keys, self.begin_s = keys, begin_s
        self.num_waiting = 0
        self.done = threading.Event()
        self.values: dict[str, bytes | None] = {}
        self.error: Exception | None = None


class KvReader:
    """Reads `kv` in `num_threads` threads; a caller waits no longer than it wants. Safe for threads.

    A key that another caller is reading is not read a second time. A store that hangs holds these threads only. While all of them are
    stuck, reads fail at once.
    """

    def __init__(self, kv: Kv, num_threads: int, clock: Clock) -> None:
        self._kv, self._clock = kv, clock
        self._queue: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._reads: dict[str, _Read] = {}  # queued or in progress, by key
        self._num_busy, self._progress_s = 0, clock.monotonic_s()  # when a read last began or ended
        # Daemons: a store that hangs must not keep the process.
        self._threads = [threading.Thread(target=self._run, name=f"kv-{number}", daemon=True) for number in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def get_many(self, keys: Sequence[str], until_s: float) -> list[bytes | None]:
        """Return the value of each key, None for an absent one; `until_s` is on the monotonic clock.

        Raises:
            TimeoutError: less than a millisecond is left, so the store was not asked.
            KvError: the store failed, or did not answer in time.
        """
        begin_s = self._clock.monotonic_s()
        if until_s - begin_s < _LEAST_S:
            raise TimeoutError("no time is left for reading stored features")
        with self._lock:
            stuck_s = begin_s - self._progress_s
            if self._num_busy == len(self._threads) and stuck_s > _HUNG_S:
                raise KvError(f"the store has not answered for {stuck_s:.1f} s")
            reads = self._join(keys, begin_s)
        values: dict[str, bytes | None] = {}
        try:
            for read in reads:
                left_s = until_s - self._clock.monotonic_s()
                if not read.done.wait(min(max(0.0, left_s), threading.TIMEOUT_MAX)):
                    raise KvError(f"the store did not answer in {1000 * (until_s - begin_s):.1f} ms")
                if read.error is not None:
                    raise KvError(str(read.error)) from read.error
                values.update(read.values)
        finally:
            with self._lock:
                for read in reads:
                    read.num_waiting -= 1
        return [values[key] for key in keys]

    def close(self) -> None:
        """End the threads; one that is stuck in the store is left behind."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(_CLOSE_S)

    def _join(self, keys: Iterable[str], begin_s: float) -> list[_Read]:
        """Return the reads that give `keys`: those of other callers, and a new one of the other keys. The caller holds the lock."""
        reads: dict[int, _Read] = {}
        new = _Read([], begin_s)
        for key in dict.fromkeys(keys):
            read = self._reads.get(key)
            if read is None or begin_s - read.begin_s > _HUNG_S:
                new.keys.append(key)
                self._reads[key] = read = new
            reads[id(read)] = read
        for read in reads.values():
            read.num_waiting += 1
        if new.keys:
            self._queue.put(new)
        return list(reads.values())

    def _run(self) -> None:
        while (read := self._queue.get()) is not None:
            with self._lock:
                if not read.num_waiting:
                    self._forget(read)
                    continue
                self._note_progress(1)
            try:
                read.values = dict(zip(read.keys, self._kv.get_many(read.keys), strict=True))
            except KvError as error:
                read.error = error
            except Exception as error:  # an error that the store does not map must not end the thread
                read.error = KvError(f"the store failed: {error!r}")
            with self._lock:
                self._forget(read)
                self._note_progress(-1)
            read.done.set()

    def _forget(self, read: _Read) -> None:
        """Let no further caller join `read`. The caller holds the lock."""
        for key in read.keys:
            if self._reads.get(key) is read:
                del self._reads[key]

    def _note_progress(self, change: int) -> None:
        """Count a read that begins or ends. The caller holds the lock."""
        self._num_busy += change
        self._progress_s = self._clock.monotonic_s()
