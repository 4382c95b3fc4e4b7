"""Time from the death of one of two joiners to the first step of its partitions by the other, on the SQLite log and store.

The joiners take each other for processes of other machines: the death of one shows in its silence alone. `takeover.py FOLDER NAME` is one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
from stream_load import START_MS, impression, job_in

from monolith_py.clock import SystemClock
from monolith_py.data.events import Action
from monolith_py.io import Kv, Log, open_kv, open_log
from monolith_py.io.codec import encode_action, encode_impression
from monolith_py.io.log.topics import Topics, create_topics
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.joiner.position import StateKeys

_NUM_PARTITIONS = 4
_PAUSE_S = 0.05


def takeover_s() -> float:
    """Return the seconds until the last partition of the dead joiner has a step of the other one."""
    with tempfile.TemporaryDirectory() as folder:
        job = job_in(Path(folder))
        topics, keys = Topics.of(job.log), StateKeys(job.name, Topics.of(job.log).examples)
        with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
            create_topics(log, job.log.model_copy(update={"partitions": _NUM_PARTITIONS}))
            children = [subprocess.Popen([sys.executable, __file__, folder, name]) for name in ("one", "other")]
            try:
                while sorted(owners(kv, keys)) != [b"one", b"one", b"other", b"other"]:
                    time.sleep(_PAUSE_S)
                lost = [number for number, owner in enumerate(owners(kv, keys)) if owner == b"one"]
                children[0].kill()
                children[0].wait()
                began_s = time.monotonic()
                ends = {number: log.end_offset(topics.examples, number) for number in lost}
                for index in count():
                    append(log, topics, index)
                    if all(log.end_offset(topics.examples, number) > end for number, end in ends.items()):
                        return time.monotonic() - began_s
                    time.sleep(_PAUSE_S)
            finally:
                for child in children:
                    child.kill()
                    child.wait()
    raise AssertionError("unreachable")


def owners(kv: Kv, keys: StateKeys) -> list[bytes]:
    """Return the owner of each partition."""
    return [value or b"" for value in kv.get_many([keys.owner(number) for number in range(_NUM_PARTITIONS)])]


def append(log: Log, topics: Topics, index: int) -> None:
    """Append a request to each partition, with the action that ends it."""
    for number in range(_NUM_PARTITIONS):
        one = impression(index * _NUM_PARTITIONS + number, 1, np.random.default_rng(index))
        log.append(topics.impressions, [encode_impression(one)], time_ms=one.time_ms, partition=number)
        action = Action(one.request_id, int(one.item_ids[0]), "play_end", one.time_ms + 1)
        log.append(topics.actions, [encode_action(action)], time_ms=START_MS, partition=number)


def join(folder: str, name: str) -> None:
    """Join until the process is killed."""
    job = job_in(Path(folder))
    with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
        loop = JoinerLoop(job, log, kv, SystemClock(), name=name)
        loop.start()
        while True:
            loop.step()


if __name__ == "__main__":
    join(sys.argv[1], sys.argv[2])
