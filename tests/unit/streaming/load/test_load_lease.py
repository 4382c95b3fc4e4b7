"""Two loads at once: one is refused, or the older one is fenced; the log gets every record once, whatever happens."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from monolith_py.clock import ManualClock
from monolith_py.errors import AlreadyRunning, Fenced
from monolith_py.io import MemoryKv, MemoryLog, Writer
from monolith_streaming.load.lease import LEASE_S, LoadLease

TOPIC = "impressions"
NUM = 1_200  # more than a chunk


@pytest.fixture
def table(write: Callable[..., Path], history: dict[str, Any]) -> Path:
    first_ms = min(history["time_ms"])
    columns = {
        "request_id": [f"r{number}" for number in range(NUM)],
        "time_ms": [first_ms + number for number in range(NUM)],
        "user_id": ["ann"] * NUM,
        "item_id": [number % 3 for number in range(NUM)],
        "place": [[number] for number in range(NUM)],
    }
    return write("impressions", **columns)


class InterruptedLog(MemoryLog):
    """A log with the records of `log` that calls `meanwhile` once, before the first append of a writer after `at` records."""

    def __init__(self, log: MemoryLog, meanwhile: Callable[[], Any], at: int) -> None:
        super().__init__()
        self.records, self.epochs, self.at = log.records, log.epochs, at
        self.meanwhile: Callable[[], Any] | None = meanwhile

    def writer(self, topic: str, partition: int, name: str) -> Any:
        return InterruptedWriter(super().writer(topic, partition, name), self)


class InterruptedWriter:
    def __init__(self, writer: Writer, log: InterruptedLog) -> None:
        self._writer, self._log = writer, log

    def append(self, values: Sequence[bytes], *, time_ms: int) -> int:
        log = self._log
        if log.meanwhile is not None and sum(map(len, log.records[TOPIC])) >= log.at:
            meanwhile, log.meanwhile = log.meanwhile, None
            meanwhile()
        return self._writer.append(values, time_ms=time_ms)

    def close(self) -> None:
        self._writer.close()


@pytest.mark.parametrize("at", [0, 900, 1_000])
def test_a_load_that_another_one_takes_over_ends_and_every_record_comes_once(target: Any, table: Path, at: int) -> None:
    """Two loads at once wrote all that both were about to write."""
    log = InterruptedLog(target.log, lambda: target.load(impressions=table), at)
    with pytest.raises(Fenced):
        target.load(log=log, impressions=table)
    values = target.values(TOPIC)
    assert len(set(values)) == len(values) == NUM
    assert target.load(impressions=table).loaded_before


def test_a_load_at_work_elsewhere_refuses_a_second_one_until_its_lease_ends(target: Any, table: Path) -> None:
    other = LoadLease(target.kv, target.clock, TOPIC, "elsewhere 7")
    other.take()
    with pytest.raises(AlreadyRunning, match=r"got another one \(host and process id: elsewhere 7\), which wrote 0 s ago"):
        target.load(impressions=table)
    assert target.values(TOPIC) == []
    target.clock.advance(LEASE_S)
    assert target.load(impressions=table).impressions == NUM
    with pytest.raises(Fenced):
        other.write({"load:x": b""})
    assert len(target.values(TOPIC)) == NUM


def test_a_lease_of_a_dead_process_of_this_machine_and_one_given_back_are_free() -> None:
    kv, clock = MemoryKv(), ManualClock(1_700_000_000_000)
    host = socket.gethostname()
    LoadLease(kv, clock, TOPIC, f"{host} {2**22 + 1}").take()  # above the largest process id
    one = LoadLease(kv, clock, TOPIC, "elsewhere 1")
    one.take()
    one.write({"key": b"value"})
    one.release()
    LoadLease(kv, clock, TOPIC, "elsewhere 2").take()
    assert kv.get_many(["key"]) == [b"value"]
    one.release()
    with pytest.raises(AlreadyRunning):
        LoadLease(kv, clock, TOPIC, "elsewhere 3").take()
