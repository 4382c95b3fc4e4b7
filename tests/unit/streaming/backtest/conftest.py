"""A small job with one task, and hand-made streams of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Action, Impression

HOUR_MS = 3_600_000
START_MS = 1_700_006_400_000  # 2023-11-15 00:00 UTC


class Stream:
    """Makers of jobs and events; times are seconds after START_MS."""

    start_ms = START_MS

    @staticmethod
    def job(log_url: str = "sqlite:///unused", **sections: dict[str, Any]) -> JobConfig:
        """A job with tasks click, features user (shared) and item, window 100 s, lateness 1000 s, out of order 10 s, batches of 8."""
        joiner = {"window_s": 100, "allowed_lateness_s": 1000, "max_out_of_orderness_s": 10, "emit": "candidate"}
        joiner |= sections.pop("joiner", {})
        trainer = {"checkpoint_dir": "unused", "batch_size": 8, **sections.pop("trainer", {})}
        document: dict[str, Any] = {
            "name": "test",
            "seed": 3,
            "log": {"url": log_url},
            "kv": {"url": "sqlite:///unused"},
            "features": [{"name": "user", "source": "user_id", "dim": 8}, {"name": "item", "source": "item", "dim": 8}],
            "tasks": [{"name": "is_click", "action": "click"}],
            "model": {"tower": [16], "precision": "fp32"},
            "optimizer": {"sparse": {"kind": "rowwise_adagrad", "lr": 0.05}, "dense": {"lr": 0.01, "reference_batch": 16}},
            "joiner": joiner,
            "trainer": trainer,
        }
        return parse_job(document | sections)

    @staticmethod
    def impression(request_id: str, at_s: float, user: int, items: Sequence[int]) -> Impression:
        ids, ones = np.array(items, np.int64), np.ones(len(items), np.int32)
        return Impression(
            request_id,
            START_MS + round(at_s * 1000),
            user,
            ids,
            FeatureColumns(1, {"user": SparseColumn(np.array([user], np.int64), np.ones(1, np.int32))}),
            FeatureColumns(len(items), {"item": SparseColumn(ids, ones)}),
            np.zeros((len(items), 0), np.float32),
        )

    @staticmethod
    def click(request_id: str, at_s: float, item: int) -> Action:
        return Action(request_id, item, "click", START_MS + round(at_s * 1000))

    @classmethod
    def events(cls, num_requests: int, *, every_s: float = 30.0, seed: int = 0, from_s: float = 0.0) -> list[Impression | Action]:
        """Requests of three of twelve items; items below 6 are clicked more, some clicks come late; in order of event time."""
        generator = np.random.default_rng(seed)
        events: list[Impression | Action] = []
        for index in range(num_requests):
            at_s, items = from_s + index * every_s, generator.choice(12, 3, replace=False).tolist()
            events.append(cls.impression(f"r{index}", at_s, int(generator.integers(5)), items))
            for item in items:
                if generator.random() < (0.7 if item < 6 else 0.2):
                    events.append(cls.click(f"r{index}", at_s + float(generator.choice([2.0, 50.0, 150.0])), item))
        return sorted(events, key=lambda event: event.time_ms)


@pytest.fixture(scope="session")
def stream() -> type[Stream]:
    return Stream


@pytest.fixture
def filled_log(world: Any) -> Callable[..., Any]:
    """Return a function that makes a log in memory with the events of a job."""

    def fill(job: JobConfig, events: Sequence[Impression | Action]) -> Any:
        log = world.log(job)
        world.append(job, log, *events)
        return log

    return fill


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
