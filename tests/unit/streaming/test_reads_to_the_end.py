"""Reads up to the present end never wait at an offset without a record: each transaction of a Kafka log ends with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from monolith_demo.report.ledger import _records
from monolith_py.io import Log, MemoryLog, Record
from monolith_py.io.log.dead_letters import read_letter_records
from monolith_streaming.joiner.tail import has_foreign, last_step, records_from
from monolith_streaming.load.outbox import Outbox, append_each
from monolith_streaming.replay.output import last_record, last_records


class MarkedLog:
    """A log whose partitions end with an offset without a record. A read that would wait there fails."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def end_offset(self, topic: str, partition: int = 0) -> int:
        return self._log.end_offset(topic, partition) + 1

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        found = self._log.read(topic, partition, offset, max_records) if offset < self._log.end_offset(topic, partition) else []
        assert found or timeout_s == 0.0, f"waits for a record at offset {offset}"
        return found


@pytest.mark.parametrize(
    "read",
    [
        lambda log: list(records_from(log, "topic", 0, 0)),
        lambda log: last_step(log, "topic", 0, 0),
        lambda log: has_foreign(log, "other", 0),
        lambda log: list(read_letter_records(log, "topic", 0)),
        lambda log: last_record(log, "topic", 0),
        lambda log: list(_records(log, "topic")),
        lambda log: append_each(log, log.writer("topic", 0, "load"), ("topic", 0), Outbox(0, 1, (b"a",)), lambda value, reason: None),
    ],
    ids=["tail", "last_step", "has_foreign", "dead_letters", "last_record", "ledger", "outbox"],
)
def test_reading_to_the_end_does_not_wait_at_a_marker(read: Callable[[Any], object]) -> None:
    log = MemoryLog()
    for topic in ("topic", "other"):
        log.create_topic(topic)
    log.append("topic", [b"a", b"b"], time_ms=1)
    read(MarkedLog(log))


def test_the_last_records_are_found_before_many_markers() -> None:
    log = MemoryLog()
    log.create_topic("topic")
    log.append("topic", [b"a", b"b", b"c"], time_ms=1)
    for markers in (0, 1, 30):
        log.end_offset = lambda topic, partition=0, markers=markers: 3 + markers  # type: ignore[method-assign]
        for count in (1, 2, 3, 4):
            assert [record.value for record in last_records(log, "topic", 0, count)] == [b"a", b"b", b"c"][-count:]
        found = last_record(log, "topic", 0)
        assert found is not None and found.value == b"c"
