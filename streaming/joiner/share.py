"""The partitions that one joiner of a group owns: it takes those assigned to it and gives up the others.

A partition goes from a live member to another in this order: the owner commits, closes its writer, and marks the partition free; the new
owner, who waits for that, takes it from the store and the log. The partition of a dead member is taken at once. A partition whose commit is
refused (`Fenced`) is dropped with all that is not committed, and taken again if the assignment says so; the process lives on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from monolith_py.clock import Clock
from monolith_py.errors import AlreadyRunning, Fenced, KvError
from monolith_py.io import Kv
from monolith_py.observe import metrics
from monolith_streaming.joiner.group import FREE, Group, View
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import StateKeys

_logger = logging.getLogger(__name__)

# Two fences of one partition in this time by a joiner that the store does not know: it has another store and will not stop.
_FENCE_INTERVAL_S = 60.0

# Called with a partition and its present owner; returns its state, whose writer has fenced that of the owner.
Take = Callable[[int, bytes | None], PartitionState]


class Share:
    """The share of `group` that this joiner owns, in `partitions`. For one thread."""

    def __init__(self, group: Group, kv: Kv, keys: StateKeys, clock: Clock, take: Take) -> None:
        self.partitions: list[PartitionState] = []
        self.view: View | None = None  # as of the last look
        self._group, self._kv, self._keys, self._clock, self._take = group, kv, keys, clock, take
        self._look_due_s = clock.monotonic_s()
        self._fenced_s: dict[int, float] = {}

    @property
    def is_complete(self) -> bool:
        """Return whether this joiner owns all of its share, and nothing is unknown of the other members."""
        if self.view is None or self.view.silent:
            return False
        return [partition.number for partition in self.partitions] == self.view.share()

    @property
    def is_due(self) -> bool:
        """Return whether it is time to look at the group."""
        return self._clock.monotonic_s() >= self._look_due_s

    def follow(self, num_partitions: int, commit: Callable[[], None]) -> None:
        """Look at the group; give up and take partitions as it says. `commit` makes the open step durable."""
        self.view = self._group.look(num_partitions)
        self._look_due_s = self._clock.monotonic_s() + self._group.interval_s
        for partition in [one for one in self.partitions if self.view.owners[one.number] != self._group.name.encode()]:
            self._remove(partition)
            _logger.warning("partition %d dropped: another joiner has taken it", partition.number)
        wanted = self.view.share()
        owned = {partition.number for partition in self.partitions}
        if owned - set(wanted):
            commit()
            self._give_up([partition for partition in self.partitions if partition.number not in wanted])
        missing = [number for number in wanted if number not in owned and self.view.may_take(number)]
        for number in missing:
            self._take_one(number, self.view.owners[number])
        if missing or owned - set(wanted):
            metrics.JOINER_REBALANCES.inc()
            numbers = [partition.number for partition in self.partitions]
            _logger.info("%d joiners run, this one has partitions %s of %d", len(self.view.live), numbers, num_partitions)
        metrics.JOINER_MEMBERS.set(len(self.view.live))
        metrics.JOINER_PARTITIONS_OWNED.set(len(self.partitions))
        metrics.JOINER_PARTITIONS.set(num_partitions)

    def check_whole(self) -> None:
        """Check that this joiner owns all of its share as of the last look.

        Raises:
            Fenced: another joiner has taken a part of it since.
        """
        owned = {partition.number for partition in self.partitions}
        missing = [number for number in (self.view.share() if self.view is not None else ()) if number not in owned]
        if missing:
            raise Fenced(f"partitions {missing} must stay with this joiner until it has closed their windows, got another owner")

    def lose(self, partition: PartitionState, error: Fenced) -> None:
        """Drop a partition that another joiner writes, with all that is not committed.

        Raises:
            Fenced: it is a joiner with another store, again.
        """
        self._remove(partition)
        self._look_due_s = self._clock.monotonic_s()
        if self._kv.get_many(list(partition.joiner.expected)) == list(partition.joiner.expected.values()):
            before_s, now_s = self._fenced_s.get(partition.number), self._clock.monotonic_s()
            self._fenced_s[partition.number] = now_s
            if before_s is not None and now_s - before_s < _FENCE_INTERVAL_S:
                raise error
        _logger.warning("partition %d dropped: %s", partition.number, error)

    def settle(self, num_partitions: int, commit: Callable[[], None], should_stop: Callable[[], bool], *, must_be_alone: bool) -> None:
        """Follow the group until this joiner owns all partitions.

        Raises:
            AlreadyRunning: another one lives, and this one must be alone.
        """
        self._group.is_exclusive = True
        while True:
            self.follow(num_partitions, commit)
            assert self.view is not None
            if must_be_alone and self.view.others:
                raise AlreadyRunning(f"no other joiner of the job may run with --stop-at-end, got {self.view.others}")
            if self.is_complete or should_stop():
                break
            self._clock.sleep(self._group.interval_s)
        self._group.is_exclusive = must_be_alone

    def close(self) -> None:
        """Give up all partitions, and leave the group if the store is there."""
        partitions, self.partitions = self.partitions, []
        try:
            self._free(partitions)
            self._group.leave()
        except KvError as error:
            _logger.warning("left without a word to the other joiners: %s", error)

    def _take_one(self, number: int, before: bytes | None) -> None:
        try:
            self.partitions.append(self._take(number, before))
        except Fenced as error:
            _logger.warning("partition %d was taken by another joiner: %s", number, error)
            return
        self.partitions.sort(key=lambda partition: partition.number)

    def _give_up(self, partitions: list[PartitionState]) -> None:
        for partition in partitions:
            self.partitions.remove(partition)
        self._free(partitions)

    def _free(self, partitions: list[PartitionState]) -> None:
        """Close the writers, and mark the partitions free unless another joiner has them."""
        for partition in partitions:
            partition.writer.close()
            with suppress(Fenced):
                self._kv.write({self._keys.owner(partition.number): FREE}, (), partition.joiner.expected)

    def _remove(self, partition: PartitionState) -> None:
        self.partitions.remove(partition)
        partition.writer.close()
