"""A joined stream and its archive."""

from __future__ import annotations

import random
from typing import Any

import pytest

from monolith_py.clock import SystemClock
from monolith_py.io import open_log
from monolith_py.io.archive import ArchiveFolder
from monolith_streaming.archive.archiver import Archiver

World = Any
NUM_REQUESTS, BETWEEN_S = 120, 100.0


@pytest.fixture(scope="module")
def stream(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A joined stream over three hours with late and retracted actions, and its archive."""
    folder = tmp_path_factory.mktemp("joined")
    job = world.job(f"sqlite:///{folder / 'log'}", partitions=2, examples_per_record=32)
    log = open_log(job.log.url)
    world.create_topics(log, job)
    generator = random.Random(3)
    for number in range(NUM_REQUESTS):
        name, at_s, partition = f"r{number}", number * BETWEEN_S, number % 2
        world.append(job, log, world.impression(name, at_s, items=range(1, 4)), partition=partition)
        for item in range(1, 4):
            if generator.random() < 0.4:
                world.append(job, log, world.action(name, "click", at_s + generator.choice([5, 50, 300]), item), partition=partition)
    world.append(job, log, world.action("nobody", "click", 5))
    log.append("actions", [b"\xff\xff"], time_ms=world.now_ms)
    world.join(job, log)
    archiver = Archiver(job, log, ArchiveFolder(folder / "archive"), SystemClock())
    archiver.archive(archiver.ends())
    yield job, log, folder / "archive"
    log.close()
