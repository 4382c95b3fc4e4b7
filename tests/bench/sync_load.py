"""Load for the bench of parameter sync, a process of its own: lists of impressions at a steady rate, or recorded updates in their own time.

A list has 64 candidates with 8 features, so it makes the trainer update about 450 rows. An `end` action lets the joiner emit it at once.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from monolith_py.config import JobConfig, load_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression
from monolith_py.io import Log, open_log
from monolith_py.io.codec import encode_action, encode_impression
from monolith_py.io.log.topics import Topics
from monolith_py.sync import decode_delta

NUM_CANDIDATES, NUM_FIDS = 64, 200_000
ITEM_FEATURES = [f"f{index}" for index in range(6)]
ROWS_PER_IMPRESSION = NUM_CANDIDATES * (1 + len(ITEM_FEATURES)) + 1
_TICK_S = 0.02
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
    rng, topics, done = np.random.default_rng(0), Topics.of(job.log), 0
    began_s = time.monotonic()
    while True:
        due = int((time.monotonic() - began_s) * rows_per_s / ROWS_PER_IMPRESSION)
        now_ms = time.time_ns() // 1_000_000
        impressions, actions = [], []
        for number in range(done, due):
            one = impression(f"load-{began_s}-{number}", now_ms, rng)
            impressions.append(encode_impression(one))
            kinds = ("click", "end") if number % 3 == 0 else ("end",)
            actions += [encode_action(Action(one.request_id, int(one.item_ids[0]), kind, now_ms + 1)) for kind in kinds]
        done = due
        if impressions:
            log.append(topics.impressions, impressions, time_ms=now_ms)
            log.append(topics.actions, actions, time_ms=now_ms + 1)
        time.sleep(_TICK_S)


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
