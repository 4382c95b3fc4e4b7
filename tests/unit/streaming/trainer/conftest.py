"""A trainer's world: logs whose time is a manual clock, and records of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch
from monolith_py.io import Record


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_examples() -> Callable[..., ExampleBatch]:
    """Return a function that makes examples of the given item ids; the fid of each is its item id."""

    def make(*item_ids: int, time_ms: int = 1_000, tasks: tuple[str, ...] = ("click",), dim: int = 2) -> ExampleBatch:
        num = len(item_ids)
        ids = np.array(item_ids, np.int64)
        return ExampleBatch(
            tuple(f"r{item_id}" for item_id in item_ids),
            ids,
            np.full(num, time_ms, np.int64),
            np.zeros(num, np.uint8),
            np.ones(num, np.float32),
            {task: (ids % 2).astype(np.float32) for task in tasks},
            FeatureColumns(num, {"item": SparseColumn(ids, np.ones(num, np.int32))}, {"age": np.ones((num, dim), np.float32)}),
        )

    return make


@pytest.fixture
def timed_log(world: Any) -> Callable[[ManualClock], Any]:
    """Return a function that makes a log in memory whose reads wait on the clock."""

    class TimedLog(world.MemoryLog):  # type: ignore[misc]
        def __init__(self, clock: ManualClock) -> None:
            super().__init__()
            self.clock = clock

        def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
            records: list[Record] = super().read(topic, partition, offset, max_records, timeout_s)
            if not records:
                self.clock.advance(timeout_s)
            return records

    return TimedLog


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., JobConfig]:
    def make(partitions: int = 1, features: dict[str, Any] | None = None, **trainer: Any) -> JobConfig:
        return parse_job(
            {
                "name": "online",
                "log": {"url": "sqlite:///unused", "partitions": partitions},
                "kv": {"url": "memory:"},
                "features": [{"name": "item", "source": "item_id", "dim": 4, **(features or {})}],
                "dense_features": [{"name": "age", "source": "item", "dim": 2}],
                "tasks": [{"name": "click", "action": "click"}],
                "model": {"tower": [8], "precision": "fp32"},
                "trainer": {"checkpoint_dir": f"{tmp_path}/checkpoints", "batch_size": 8, "linger_s": 0.0, "num_threads": 1, **trainer},
            }
        )

    return make
