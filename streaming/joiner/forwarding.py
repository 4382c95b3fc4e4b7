"""Actions whose impression may be in another partition, because partitions were added in between: they are forwarded there.

The partition of a request depends on the number of partitions when the record was written. So an action that finds no impression in its
partition is copied to the others that its request has under the numbers of partitions so far, as soon as it begins to wait. A copy is an
action like any other. It comes at least once, and a repeated action changes no label.

No copy goes round for ever. One that comes back finds the action waiting, and does not begin to wait; if the action waits no more, it is
one of the last actions that this joiner has forwarded from there; and the present partition of a request forwards no action for which no
request is remembered by now.
Numbers of partitions are in the group's list (`group`); without it, as after an emptied store, nothing is forwarded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from monolith_py.io import Log
from monolith_py.io.retrying import RetryPolicy
from monolith_py.observe import metrics
from monolith_streaming.joiner.group import View
from monolith_streaming.joiner.partition import Forward, PartitionState

# Actions that were forwarded, and are not again. 200,000 others must come in between for one to go round a second time.
_MAX_REMEMBERED = 200_000


class Forwarding:
    """Forwards actions to other partitions of `topic`."""

    def __init__(self, log: Log, topic: str, retry: RetryPolicy, keep_ms: int) -> None:
        """`keep_ms`: the time that an action waits for its impression."""
        self._log, self._topic, self._retry, self._keep_ms = log, topic, retry, keep_ms
        self.num_forwarded = 0
        self._remembered: OrderedDict[int, None] = OrderedDict()
        self._reporting: WeakKeyDictionary[PartitionState, tuple[int, ...]] = WeakKeyDictionary()

    def watch(self, partitions: Sequence[PartitionState], counts: Sequence[int], view: View | None, now_ms: int) -> None:
        """Let the partitions report actions that wait, if partitions were ever added; those that wait already if that was just now.

        `counts`: numbers of partitions so far, as for `forward`. The list of `view` may have further ones, or lack the last one.
        """
        if view is None or len(counts) < 2:
            return
        since_ms = {count: noticed_ms for noticed_ms, count in view.counts}.get(counts[-1], now_ms)
        is_recent = now_ms - since_ms <= 2 * self._keep_ms
        for partition in partitions:
            if self._reporting.get(partition) != tuple(counts):
                self._reporting[partition] = tuple(counts)
                partition.joiner.core.report_early(is_recent)

    def forward(self, partitions: Sequence[PartitionState], counts: Sequence[int]) -> None:
        """Append the actions that the open step reports to the other partitions of their requests.

        Raises:
            LogError: the log was away for too long.
        """
        by_place: dict[int, list[Forward]] = {}
        for partition in partitions:
            for one in partition.forwards(counts):
                if self._is_new(hash((partition.number, one))):
                    by_place.setdefault(one.partition, []).append(one)
        for place, actions in by_place.items():
            self._retry.run(self._append(place, actions))
            self.num_forwarded += len(actions)
            metrics.ACTIONS_FORWARDED.inc(len(actions))

    def _is_new(self, key: int) -> bool:
        if key in self._remembered:
            return False
        self._remembered[key] = None
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return True

    def _append(self, place: int, actions: Sequence[Forward]) -> Callable[[], int]:
        values, times_ms = [one.value for one in actions], [one.time_ms for one in actions]
        return lambda: self._log.append(self._topic, values, time_ms=times_ms, partition=place)
