"""Load for the bench of parameter sync, a process of its own: lists of impressions at a steady rate, or recorded updates in their own time.

A list has 64 candidates with 8 features, so it makes the trainer update about 450 rows. An `end` action lets the joiner emit it at once.
Lists are encoded ahead and sent in turn, so 100,000 rows/s take 2 to 3 % of a core here.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monolith_py.config import JobConfig, load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_action, encode_impression
from monolith_py.io.log.topics import Topics
from monolith_py.sync import decode_delta

NUM_CANDIDATES, NUM_FIDS, NUM_LISTS = 64, 200_000, 4096
ITEM_FEATURES = [f"f{index}" for index in range(6)]
ROWS_PER_IMPRESSION = NUM_CANDIDATES * (1 + len(ITEM_FEATURES)) + 1
_TICK_S = 0.02
_TIME_MS = 1_700_000_000_000  # in records made ahead
_RUN = time.time_ns() >> 10 & 0xFFFFFFFF
_BULK = 1000


def main() -> None:
    """Load the job of the first argument until killed: `impressions ROWS_PER_S`, or `updates FOLDER OFFSET` with the log of another job."""
    kind, config, *options = sys.argv[1:]
    job = load_job(Path(config))
    log = open_log(job.log.url)
    if kind == "impressions":
        append_impressions(log, job, float(options[0]))
    else:
        append_updates(log, Topics.of(job.log).updates, options[0], int(options[1]))


def append_impressions(log: Log, job: JobConfig, rows_per_s: float) -> None:
    """Append impressions and their ends, so that about `rows_per_s` rows are updated."""
    topics, done = Topics.of(job.log), 0
    lists = [EncodedList.of(number) for number in range(NUM_LISTS)]
    began_s = time.monotonic()
    while True:
        due = int((time.monotonic() - began_s) * rows_per_s / ROWS_PER_IMPRESSION)
        now_ms = time.time_ns() // 1_000_000
        if due > done:
            chosen = [(lists[number % NUM_LISTS], number) for number in range(done, due)]
            impressions = [one.impression.at(number, now_ms) for one, number in chosen]
            actions = [action.at(number, now_ms) for one, number in chosen for action in one.actions]
            log.append(topics.impressions, impressions, time_ms=now_ms)
            log.append(topics.actions, actions, time_ms=now_ms)
        done = due
        time.sleep(_TICK_S)


@dataclass(frozen=True)
class Encoded:
    """A record encoded ahead, in which the request id and the time are set by writing over those bytes."""

    value: bytes
    id_at: int
    time_at: int

    @staticmethod
    def of(value: bytes) -> Encoded:
        """Return the record of `value`, which has the request id and the time `_TIME_MS` of all records made ahead."""
        old_id, old_time = _id_of(0), _varint(_TIME_MS)
        assert value.count(old_id) == value.count(old_time) == 1, "another field has the same bytes"
        return Encoded(value, value.index(old_id), value.index(old_time))

    def at(self, number: int, time_ms: int) -> bytes:
        """Return the record of request `number` at `time_ms`."""
        value = bytearray(self.value)
        for start, part in ((self.id_at, _id_of(number)), (self.time_at, _varint(time_ms))):
            value[start : start + len(part)] = part
        return bytes(value)


@dataclass(frozen=True)
class EncodedList:
    """An impression and the actions that end it; a third of the lists have a click."""

    impression: Encoded
    actions: list[Encoded]

    @staticmethod
    def of(number: int) -> EncodedList:
        """Return the list `number` of random items."""
        one = impression(_id_of(0).decode(), _TIME_MS, np.random.default_rng(number))
        kinds = ("click", "end") if number % 3 == 0 else ("end",)
        actions = [Action(one.request_id, int(one.item_ids[0]), kind, _TIME_MS) for kind in kinds]
        return EncodedList(Encoded.of(encode_impression(one)), [Encoded.of(encode_action(action)) for action in actions])


def _id_of(number: int) -> bytes:
    """Return a request id; all have one length."""
    return b"load-%08x-%08x" % (_RUN, number)


def _varint(value: int) -> bytes:
    """Return a number as protobuf writes it; wall-clock times of this century all take 6 bytes."""
    parts = [value >> shift & 0x7F for shift in range(0, 42, 7)]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


def impression(request_id: str, now_ms: int, rng: np.random.Generator) -> Impression:
    """Return a list of random items."""
    one, each = np.ones(1, np.int32), np.ones(NUM_CANDIDATES, np.int32)
    items = rng.integers(1, NUM_FIDS, NUM_CANDIDATES)
    features = {name: SparseColumn(rng.integers(1, NUM_FIDS, NUM_CANDIDATES), each) for name in ITEM_FEATURES}
    return Impression(
        request_id=request_id,
        time_ms=now_ms,
        user_id=int(rng.integers(1, NUM_FIDS)),
        item_ids=items,
        shared=FeatureColumns(1, {"user_id": SparseColumn(rng.integers(1, NUM_FIDS, 1), one)}),
        candidates=FeatureColumns(NUM_CANDIDATES, {"item_id": SparseColumn(items, each), **features}),
        scores=np.full((NUM_CANDIDATES, 2), 0.5, np.float32),
        task_names=("is_click", "long_view"),
        model_version="1.1",
    )


def append_updates(log: Log, topic: str, recorded_url: str, offset: int) -> None:
    """Append recorded updates: those before `offset` at once, then each publication as long after the one before as when it was recorded.

    Each line on standard input is the length of a turn in seconds; one on standard output says that the first ones are there, or that a
    turn is over.
    """
    recorded = open_log(recorded_url)
    place = 0
    while place < offset:
        records = recorded.read(topic, 0, place, min(_BULK, offset - place))
        log.append(topic, [record.value for record in records], time_ms=records[-1].time_ms)
        place = records[-1].offset + 1
    print("ready", flush=True)
    for line in sys.stdin:
        turn_s = float(line)
        began_s, first_ms = time.monotonic(), 0
        while records := recorded.read(topic, 0, place, 1):
            published_ms = decode_delta(records[0].value).published_ms
            first_ms = first_ms or published_ms
            due_s = (published_ms - first_ms) / 1000
            if due_s > turn_s:
                break
            time.sleep(max(0.0, began_s + due_s - time.monotonic()))
            log.append(topic, [records[0].value], time_ms=records[0].time_ms)
            place += 1
        print("turn over", flush=True)


if __name__ == "__main__":
    main()
