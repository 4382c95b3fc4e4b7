"""A genuine Flink cluster gives the examples of Beam's own runner, from the log and from an archive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from monolith_demo.driver.flink_job_server import FlinkJobServer
from monolith_demo.driver.maven import JavaUnavailable
from monolith_py.io import Log
from monolith_streaming.replay.beam import ReplayOptions, run_replay

World = Any


@pytest.fixture
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Options of Beam for a genuine Flink cluster with workers in this process."""
    server = FlinkJobServer(tmp_path_factory.mktemp("flink"))
    try:
        server.start()
    except JavaUnavailable as error:
        pytest.skip(f"NO FLINK, so nothing is known about a replay on it: {error}")
    yield server.pipeline_args
    server.kill()


def values(log: Log, topic: str) -> list[list[bytes]]:
    return [[record.value for record in log.read(topic, partition, 0, 10_000)] for partition in range(log.num_partitions(topic))]


@pytest.mark.slow
@pytest.mark.needs_flink
def test_flink_writes_the_records_of_the_local_runner_once(world: World, stream: Any, flink: tuple[str, ...]) -> None:
    job, log, archive = stream
    times_ms = {"start_ms": world.now_ms, "end_ms": world.now_ms + 12_000_000}
    local = run_replay(job, **times_ms, output="local")
    on_flink = run_replay(job, **times_ms, output="on-flink", options=ReplayOptions(pipeline_args=flink))
    assert values(log, "on-flink") == values(log, "local")
    assert world.examples(job, log, "on-flink") == world.examples(job, log)
    assert vars(on_flink) == {**vars(local), "topic": "on-flink"}
    # The archive has the same records, so its replay into the same topic finds every one there.
    again = run_replay(job, **times_ms, output="on-flink", options=ReplayOptions(archive=archive, pipeline_args=flink))
    assert (again.records_written, again.records_present, again.retraction) == (0, local.records_written, local.retraction)
    assert values(log, "on-flink") == values(log, "local")
