"""The replica before its first checkpoint: it is not ready, and looks again at the interval of its settings."""

from __future__ import annotations

import pytest
import torch

from monolith_py.clock import ManualClock
from monolith_py.config import JobConfig, parse_job
from monolith_py.errors import NotReady
from monolith_serving.replica.replica import Replica


class CountedStop:
    """A stop signal that is set after `num_waits` waits, and keeps their lengths."""

    def __init__(self, num_waits: int) -> None:
        self._num_waits = num_waits
        self.waits_s: list[float] = []

    def is_set(self) -> bool:
        return len(self.waits_s) >= self._num_waits

    def wait(self, timeout_s: float) -> bool:
        self.waits_s.append(timeout_s)
        return self.is_set()


@pytest.fixture
def job(tmp_path) -> JobConfig:
    return parse_job(
        {
            "name": "replica",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "memory:"},
            "features": [{"name": "item_id", "source": "item_id", "dim": 8}],
            "tasks": [{"name": "click", "action": "click"}],
            "trainer": {"checkpoint_dir": str(tmp_path / "checkpoints")},
            "serving": {"checkpoint_poll_s": 0.125},
        }
    )


@pytest.fixture
def replica(job):
    replica = Replica(job, None, torch.device("cpu"), ManualClock(1_000_000))
    yield replica
    replica.close()


def test_a_replica_without_a_checkpoint_looks_again_every_poll_interval(replica):
    stop = CountedStop(3)
    replica.follow(stop)
    assert stop.waits_s == [0.125] * 3


def test_a_replica_without_a_checkpoint_is_not_ready(replica, job):
    assert not replica.is_ready and replica.staleness_ms() == 0
    for ask in (replica.require_ready, lambda: replica.state):
        with pytest.raises(NotReady, match=r"no checkpoint in '.*checkpoints' yet"):
            ask()
