"""Commits of the joiner's state to the store, which must be as this joiner left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monolith_py.config import JobConfig
from monolith_py.data.columns import FeatureColumns
from monolith_py.data.counters import LiveCounters
from monolith_py.data.events import DeadLetter
from monolith_py.errors import Fenced
from monolith_py.io import Kv, Log
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.core_partition import Judge
from monolith_streaming.joiner.counters import counted
from monolith_streaming.joiner.lookup import ImpressionLookup
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import StateKeys

# Attempts of a commit whose live counters other joiners change meanwhile.
_COUNTER_ATTEMPTS = 100


class Commits:
    """Writes steps of partitions to the store: waiting requests, live counters and positions."""

    def __init__(self, kv: Kv, keys: StateKeys, job: JobConfig, log: Log, judge: Judge) -> None:
        self._kv, self._keys, self._job = kv, keys, job
        self._lookup = ImpressionLookup(log, job, judge)

    def write(self, partitions: Sequence[PartitionState]) -> None:
        """Write the changes of these partitions with their positions, and clear their steps.

        Raises:
            Fenced: another joiner has taken one of them over, or the store has lost a commit.
        """
        puts: dict[str, bytes] = {}
        deletes: list[str] = []
        for partition in partitions:
            self._lookup.complete(partition)  # the step of a recovery; others are
            partition.joiner.core.set_max_bytes(self._job.joiner.max_memory_bytes // max(self._job.log.partitions, len(partitions)))
            partition_puts, partition_deletes = partition.joiner.changes(self._keys, partition.number)
            puts |= partition_puts
            deletes += partition_deletes
        for attempt in range(_COUNTER_ATTEMPTS):
            counters, before = self._counters(partitions)
            try:
                commit(self._kv, self._keys, partitions, {**puts, **counters}, deletes, before)
                break
            except Fenced:
                if not before or attempt == _COUNTER_ATTEMPTS - 1 or lost(self._kv, partitions):
                    raise
        for partition in partitions:
            partition.joiner.core.clear_step()

    def letters(self, partition: PartitionState, counts: Sequence[int]) -> list[DeadLetter]:
        """Give the examples of the step their features, and return its dead letters; `counts`: numbers of partitions so far."""
        return [*self._lookup.complete(partition), *partition.letters(Topics.of(self._job.log), counts)]

    def _counters(self, partitions: Sequence[PartitionState]) -> tuple[Mapping[str, bytes], Mapping[str, bytes | None]]:
        """Return the live counters after and before the steps."""
        settings = self._job.counters
        joiners = [partition.joiner for partition in partitions if partition.joiner.core.num_emitted]
        if not (settings.enabled and joiners):
            return {}, {}
        features = FeatureColumns.concat([joiner.features(settings.keys) for joiner in joiners])
        increments = np.concatenate([joiner.increments() for joiner in joiners])
        return counted(self._kv, LiveCounters.of(self._job), features, increments)


def commit(
    kv: Kv,
    keys: StateKeys,
    partitions: Sequence[PartitionState],
    puts: Mapping[str, bytes],
    deletes: Sequence[str],
    unchanged: Mapping[str, bytes | None] | None = None,
) -> None:
    """Write `puts`, `deletes` and the positions of `partitions` in one transaction, if the entries of `unchanged` are as they were.

    Raises:
        Fenced: another joiner has taken over or changed an entry, or the store has lost a commit.
    """
    positions = {}
    for partition in partitions:
        partition.position.commit += 1
        positions[keys.position(partition.number)] = partition.encoded_position
    expect = _expected(partitions)
    try:
        kv.write({**puts, **positions}, deletes, {**(unchanged or {}), **expect})
    except Fenced:
        # An attempt whose answer was lost may have done it.
        wanted = expect | positions
        if kv.get_many(list(wanted)) != list(wanted.values()):
            raise
    for partition in partitions:
        partition.joiner.expected[keys.position(partition.number)] = positions[keys.position(partition.number)]


def lost(kv: Kv, partitions: Sequence[PartitionState]) -> list[PartitionState]:
    """Return the partitions whose state in the store is not as this joiner left it."""
    stored = iter(kv.get_many(list(_expected(partitions))))
    return [
        partition
        for partition in partitions
        if [next(stored) for _ in partition.joiner.expected] != list(partition.joiner.expected.values())
    ]


def _expected(partitions: Sequence[PartitionState]) -> dict[str, bytes]:
    return {key: value for partition in partitions for key, value in partition.joiner.expected.items()}
