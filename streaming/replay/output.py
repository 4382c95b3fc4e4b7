"""Output of a replay, written by its workers, one partition at a time, and the marks of its records."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from monolith_py.errors import WireError
from monolith_py.io import Log, Record
from monolith_py.io.codec import examples_metadata
from monolith_streaming.joiner.tail import records_from
from monolith_streaming.replay.source import Shard

# Keys of a record of examples: name of the replay; its shard, and a text that two replays share if they have the same records.
METADATA_KEY, SHARD_KEY, RULES_KEY = "replay", "replay_shard", "replay_rules"
# Key of the record that ends a replay: it has no examples.
END_KEY = "replay_end"


class Step(NamedTuple):
    """Records of examples, in order, and the newest event time of their impressions."""

    newest_ms: int
    values: list[bytes]


class Foreign(Exception):
    """The output has a record of another replay where one of this replay belongs."""


class PartitionOutput(Protocol):
    """Output of one partition, for one worker."""

    @property
    def max_record_bytes(self) -> int:
        """Return the size above which a record is cut."""
        ...

    @property
    def first_shard(self) -> int:
        """Return the first shard that may lack records; those before it are whole."""
        ...

    def write(self, shard: int, step: Step) -> None:
        """Add the next step of a shard; shards come in order.

        Raises:
            Foreign: there is another record in its place.
        """
        ...

    def end_shard(self, shard: Shard) -> None:
        """Make what was written durable, the only records of the shard."""
        ...

    def end(self) -> None:
        """Note that all shards were written.

        Raises:
            Foreign: there are more records than the replay has.
        """
        ...

    def close(self) -> None:
        """Free connections."""
        ...


def shard_metadata(name: str, shard: int, rules: str) -> dict[str, str]:
    """Return the metadata of the records of one shard."""
    return {METADATA_KEY: name, SHARD_KEY: str(shard), RULES_KEY: rules}


def last_record(log: Log, topic: str, partition: int) -> Record | None:
    """Return the last record of a partition, None if it has none."""
    return next(iter(last_records(log, topic, partition, 1)), None)


def last_records(log: Log, topic: str, partition: int, count: int) -> list[Record]:
    """Return the last `count` records of a partition, fewer if it has fewer; Kafka's transactions end with an offset without a record."""
    start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    reach = 2 * count
    while True:
        records = list(records_from(log, topic, partition, max(start, end - reach), end))[-count:]
        if len(records) == count or end - reach <= start:
            return records
        reach *= 8


def ends_replay(value: bytes) -> bool:
    """Return whether a record is the one that ends a replay."""
    try:
        return END_KEY in examples_metadata(value)
    except WireError:
        return False


def replay_name(value: bytes) -> str | None:
    """Return the name of the replay that wrote a record of examples, None for a record of the joiner or a bad one."""
    try:
        return examples_metadata(value).get(METADATA_KEY)
    except WireError:
        return None
