"""Commits of the joiner's state to the store, which must be as this joiner left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monolith_py.errors import Fenced
from monolith_py.io import Kv
from monolith_streaming.joiner.partition import PartitionState
from monolith_streaming.joiner.position import StateKeys


def commit(kv: Kv, keys: StateKeys, partitions: Sequence[PartitionState], puts: Mapping[str, bytes], deletes: Sequence[str]) -> None:
    """Write `puts`, `deletes` and the positions of `partitions` in one transaction.

    Raises:
        Fenced: another joiner has taken over, or the store has lost a commit.
    """
    positions = {}
    for partition in partitions:
        partition.position.commit += 1
        positions[keys.position(partition.number)] = partition.encoded_position
    expect = {key: value for partition in partitions for key, value in partition.joiner.expected.items()}
    try:
        kv.write({**puts, **positions}, deletes, expect)
    except Fenced:
        # An attempt whose answer was lost may have done it.
        wanted = expect | positions
        if kv.get_many(list(wanted)) != list(wanted.values()):
            raise
    for partition in partitions:
        partition.joiner.expected[keys.position(partition.number)] = positions[keys.position(partition.number)]
