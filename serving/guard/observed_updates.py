"""Updates with calls for each checkpoint that is loaded, each read, and each delta that was applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monolith_py.sync import Delta, Subscriber
from monolith_serving.replica.checkpoint_loader import LoadedCheckpoint
from monolith_serving.replica.replica import UpdatesLog

# Called with a delta, and the offsets [start, end) that hold it.
Applied = Callable[[Delta, int, int], None]


@dataclass(frozen=True, kw_only=True)
class ObservedUpdates(UpdatesLog):
    """Updates of a job; `loaded` is called before a replica follows a checkpoint, `reads` before a read, `applied` after a delta."""

    loaded: Callable[[LoadedCheckpoint], None]
    reads: Callable[[], None]
    applied: Applied

    def subscriber(self, loaded: LoadedCheckpoint) -> Subscriber:
        """Return a subscriber that reads the updates after a checkpoint."""
        self.loaded(loaded)
        return _ObservedSubscriber(self, loaded)


class _ObservedSubscriber(Subscriber):
    def __init__(self, updates: ObservedUpdates, loaded: LoadedCheckpoint) -> None:
        super().__init__(updates.log, updates.topic, offset=loaded.updates_offset, next_delta=loaded.state.next_delta)
        self._reads, self._applied = updates.reads, updates.applied

    def read(self, timeout_s: float) -> Iterator[Delta]:
        """Yield the next deltas as a subscriber does; call `applied` for each once the caller asks for the one after it."""
        self._reads()
        pending: tuple[Delta, int] | None = None
        for delta in super().read(timeout_s):
            if pending is not None:
                self._applied(*pending, self.offset)
            pending = delta, self.offset
            yield delta
        if pending is not None:
            self._applied(*pending, self.offset)
