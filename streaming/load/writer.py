"""History into the log, every record once: chunks in the order of event time, each kept in the store before it is appended.

A chunk is written to the store with its number and then appended. A later run with the same tables appends what the log lacks of the
last chunk and goes on after it, so that a load that was killed may be run again. Two loads at once cannot mix: every write to the store
renews a lease (lease.py), and every append goes through the fenced writer of its partition.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from monolith_py.clock import Clock
from monolith_py.errors import WireError
from monolith_py.io import Kv, Log, Writer
from monolith_py.io.log.topics import partition_of
from monolith_streaming.load.lease import LoadLease
from monolith_streaming.load.outbox import Outbox, decode_outbox, deliver, encode_outbox

_logger = logging.getLogger(__name__)

CHUNK_RECORDS = 1000
_LOG_CHUNKS = 50
# Name of the writer of a load, of each partition.
_WRITER = "load"


class Timed(NamedTuple):
    """One record of the history."""

    time_ms: int
    topic: str
    request_id: str
    value: bytes


class HistoryWriter:
    """Appends one history, known by `name`, to topics of the log."""

    def __init__(self, log: Log, kv: Kv, clock: Clock, name: str, topics: Sequence[str]) -> None:
        self._log, self._kv, self._key, self._topics = log, kv, f"load:{name}", topics
        self._lease = LoadLease(kv, clock, topics[0])
        self._writers: dict[tuple[str, int], Writer] = {}
        self._partitions = {topic: log.num_partitions(topic) for topic in topics}
        self.refused = 0  # records that the log will never take

    def state(self) -> tuple[int, bool]:
        """Return the number of chunks that are kept or appended, and whether the history is complete.

        Raises:
            WireError: the state in the store is damaged.
        """
        (value,) = self._kv.get_many([self._key])
        if value is None:
            return 0, False
        try:
            document = json.loads(value)
            return int(document["chunks"]), bool(document["complete"])
        except (ValueError, KeyError, TypeError) as error:
            raise WireError(f"{self._key} must be the state of a load: {type(error).__name__}: {error}") from None

    def write(self, records: Iterable[Timed], check_order: Callable[[], None]) -> None:
        """Append the records, which are in the order of event time; those of earlier runs are left out.

        `check_order` is called before the first record of a history, when no other load can write any more.

        Raises:
            AlreadyRunning: another load into these topics is at work.
            Fenced: another load has taken over.
            LogError: the log cannot be read or appended to; a later run continues.
            KvError: the store is away; a later run continues.
        """
        if self.state()[1]:
            return
        self._lease.take()
        try:
            self._write(records, check_order)
        finally:
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()
        self._lease.release()

    def _write(self, records: Iterable[Timed], check_order: Callable[[], None]) -> None:
        done, complete = self.state()
        if complete:
            return
        if done:
            self._deliver(self._kept())
        else:
            check_order()
        for number, chunk in enumerate(_chunks(records), start=1):
            if number <= done:
                continue
            outboxes = self._outboxes(chunk)
            kept = {self._place(topic, partition): encode_outbox(outbox) for (topic, partition), outbox in outboxes.items()}
            empty = [self._place(*place) for place in self._places() if place not in outboxes]
            self._lease.write({**kept, self._key: _document(number, complete=False)}, empty)
            self._deliver(outboxes)
            if number % _LOG_CHUNKS == 0:
                _logger.info("%d records of the history loaded", number * CHUNK_RECORDS)
            done = number
        self._lease.write({self._key: _document(done, complete=True)}, [self._place(*place) for place in self._places()])

    def _places(self) -> list[tuple[str, int]]:
        return [(topic, partition) for topic in self._topics for partition in range(self._partitions[topic])]

    def _place(self, topic: str, partition: int) -> str:
        return f"{self._key}:{topic}:{partition}"

    def _kept(self) -> dict[tuple[str, int], Outbox]:
        places = self._places()
        values = self._kv.get_many([self._place(*place) for place in places])
        return {place: decode_outbox(value) for place, value in zip(places, values, strict=True) if value is not None}

    def _outboxes(self, chunk: Sequence[Timed]) -> dict[tuple[str, int], Outbox]:
        """Return the records of a chunk by topic and partition; all of a place have its last event time."""
        values: dict[tuple[str, int], list[Timed]] = {}
        for record in chunk:
            values.setdefault((record.topic, partition_of(record.request_id, self._partitions[record.topic])), []).append(record)
        return {
            place: Outbox(self._log.end_offset(*place), records[-1].time_ms, tuple(record.value for record in records))
            for place, records in values.items()
        }

    def _deliver(self, outboxes: Mapping[tuple[str, int], Outbox]) -> None:
        for place, outbox in outboxes.items():
            if place not in self._writers:
                self._writers[place] = self._log.writer(*place, _WRITER)
            deliver(self._log, self._writers[place], place, outbox, self._refuse)

    def _refuse(self, value: bytes, reason: str) -> None:
        self.refused += 1
        _logger.error("a record of %d bytes is left out: %s", len(value), reason)


def merged(impressions: Iterable[Timed], actions: Iterable[Timed]) -> Iterator[Timed]:
    """Yield both, each sorted by event time, in the order of event time; of equal times the impression is first."""
    yield from merge(impressions, actions, key=itemgetter(0))


def _chunks(records: Iterable[Timed]) -> Iterator[list[Timed]]:
    rest = iter(records)
    while chunk := list(islice(rest, CHUNK_RECORDS)):
        yield chunk


def _document(chunks: int, *, complete: bool) -> bytes:
    return json.dumps({"chunks": chunks, "complete": complete}).encode()
