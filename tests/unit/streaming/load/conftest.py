"""Tables of a shop, and a job in memory that they are loaded into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.config.load import parse_columns
from monolith_py.io import open_kv
from monolith_py.io.codec import decode_features
from monolith_streaming.load import LoadOptions, LoadResult, Tables, load_tables

World = Any
NOW_MS = 1_700_000_000_000


@pytest.fixture
def job() -> JobConfig:
    return parse_job(
        {
            "name": "shop",
            "log": {"url": "sqlite:///unused", "partitions": 2},
            "kv": {"url": "memory:"},
            "features": [
                {"name": "user_id", "source": "user_id"},
                {"name": "country", "source": "user"},
                {"name": "item_id", "source": "item_id"},
                {"name": "tags", "source": "item"},
                {"name": "place", "source": "context"},
            ],
            "dense_features": [{"name": "age", "source": "user"}, {"name": "price", "source": "item", "dim": 2}],
            "tasks": [{"name": "is_click", "action": "click"}],
            "counters": {"enabled": True, "keys": ["item_id"]},
            "trainer": {"checkpoint_dir": "unused"},
        }
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_table(name: str, **columns: Any) -> Path:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=2)
        return path

    return write_table


@pytest.fixture
def users(write: Callable[..., Path]) -> Path:
    return write("users", user_id=["ann", "bob", "cyd"], country=["nz", None, "fr"], age=[30.5, 41.0, 7.0])


@pytest.fixture
def items(write: Callable[..., Path]) -> Path:
    return write("items", item_id=[1, 2, 3], tags=[["a", "b"], [], None], price=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


class Target:
    """Log and store of one job."""

    def __init__(self, world: World, job: JobConfig) -> None:
        self.job, self.log, self.kv, self.clock = job, world.log(job), open_kv("memory:"), ManualClock(NOW_MS + 10**9)

    def load(self, columns: dict[str, Any] | None = None, log: Any = None, kv: Any = None, **given: Any) -> LoadResult:
        paths = {name: given.pop(name) for name in ("users", "items", "impressions", "actions") if name in given}
        options = LoadOptions(columns=parse_columns(columns or {}), **given)
        return load_tables(self.job, Tables(**paths), log or self.log, kv or self.kv, self.clock, options)

    def values(self, topic: str) -> list[bytes]:
        return [record.value for records in self.log.records[topic] for record in records]

    def features(self, key: str) -> Any:
        (value,) = self.kv.get_many([key])
        return None if value is None else decode_features(value)


@pytest.fixture
def target(world: World, job: JobConfig) -> Target:
    return Target(world, job)


@pytest.fixture
def history() -> dict[str, Any]:
    """Columns of four candidates of three requests."""
    return {
        "request_id": ["r1", "r2", "r1", "r3"],
        "time_ms": [NOW_MS + 5, NOW_MS, NOW_MS + 5, NOW_MS + 9],
        "user_id": ["ann", "bob", "ann", "nobody"],
        "item_id": [1, 2, 3, 1],
        "place": [[4, 5], [6], [4, 5], None],
    }
