"""A small job and random examples for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.examples import ExampleBatch


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., JobConfig]:
    def make(**sections: Any) -> JobConfig:
        settings: dict[str, Any] = {
            "name": "training",
            "log": {"url": f"sqlite:///{tmp_path}/log"},
            "kv": {"url": "memory:"},
            "features": [
                {"name": "user_id", "source": "user_id", "dim": 8},
                {"name": "tags", "source": "item", "dim": 8, "pooling": "mean"},
            ],
            "dense_features": [{"name": "age", "source": "user", "dim": 2}],
            "tasks": [{"name": "click", "action": "click"}, {"name": "like", "action": "like", "weight": 0.5}],
            "model": {"tower": [16, 8], "precision": "fp32"},
            "trainer": {"checkpoint_dir": f"{tmp_path}/checkpoints", "batch_size": 32, "linger_s": 0.0, "num_threads": 1},
        }
        return parse_job({**settings, **sections})

    return make


@pytest.fixture
def make_examples() -> Callable[..., ExampleBatch]:
    def make(seed: int = 0, num: int = 32) -> ExampleBatch:
        generator = np.random.default_rng(seed)
        lengths = generator.integers(0, 4, num).astype(np.int32)
        users = generator.integers(0, 20, num)
        return ExampleBatch(
            tuple(f"{seed}-{row}" for row in range(num)),
            np.arange(num),
            1_700_000_000_000 + seed * 60_000 + np.arange(num),
            np.zeros(num, np.uint8),
            np.ones(num, np.float32),
            {"click": (users % 2).astype(np.float32), "like": generator.integers(0, 2, num).astype(np.float32)},
            FeatureColumns(
                num,
                {
                    "user_id": SparseColumn(users, np.ones(num, np.int32)),
                    "tags": SparseColumn(generator.integers(0, 9, lengths.sum()), lengths),
                },
                {"age": generator.normal(size=(num, 2)).astype(np.float32)},
            ),
        )

    return make
