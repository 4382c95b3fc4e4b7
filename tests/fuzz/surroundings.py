"""Log, job and events of the fuzz."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monolith_py.config import JobConfig, parse_job
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.events import Impression
from monolith_py.io import Record

NOW_MS = 1_700_000_000_000


class MemoryLog:
    """A log in memory that forgets what is trimmed."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = {}
        self.starts: dict[str, int] = {}

    def create_topic(self, topic: str, num_partitions: int = 1) -> None:
        self.records.setdefault(topic, [])
        self.starts.setdefault(topic, 0)

    def num_partitions(self, topic: str) -> int:
        return 1

    def append(self, topic: str, values: Sequence[bytes], *, time_ms: int | Sequence[int], partition: int = 0) -> int:
        at_ms = time_ms if isinstance(time_ms, int) else time_ms[0]
        for value in values:
            self.records[topic].append(Record(topic, 0, self.end_offset(topic), at_ms, value))
        return self.end_offset(topic)

    def writer(self, topic: str, partition: int, name: str) -> MemoryWriter:
        return MemoryWriter(self, topic)

    def read(self, topic: str, partition: int, offset: int, max_records: int, timeout_s: float = 0.0) -> list[Record]:
        first = offset - self.starts[topic]
        return self.records[topic][first : first + max_records]

    def start_offset(self, topic: str, partition: int = 0) -> int:
        return self.starts[topic]

    def end_offset(self, topic: str, partition: int = 0) -> int:
        return self.starts[topic] + len(self.records[topic])

    def offset_at(self, topic: str, partition: int, time_ms: int) -> int:
        raise NotImplementedError

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        del self.records[topic][: before_offset - self.starts[topic]]
        self.starts[topic] = max(self.starts[topic], before_offset)

    def close(self) -> None:
        pass


class MemoryWriter:
    """The only writer of a topic."""

    def __init__(self, log: MemoryLog, topic: str) -> None:
        self._log, self._topic = log, topic

    def append(self, values: Sequence[bytes], *, time_ms: int | Sequence[int]) -> int:
        return self._log.append(self._topic, values, time_ms=time_ms)

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


def job_in(folder: str) -> JobConfig:
    """Return a job of two features, one dense feature and two tasks."""
    return parse_job(
        {
            "name": "fuzz",
            "log": {"url": "sqlite:///unused"},
            "kv": {"url": "sqlite:///unused"},
            "features": [{"name": "user", "source": "user_id", "dim": 4}, {"name": "tags", "source": "item", "dim": 4}],
            "dense_features": [{"name": "age", "source": "item", "dim": 2}],
            "tasks": [{"name": "is_click", "action": "click"}, {"name": "is_like", "action": "like"}],
            "counters": {"enabled": False},
            "joiner": {"window_s": 60, "allowed_lateness_s": 60, "linger_s": 0, "emit": "candidate"},
            "model": {"tower": [8]},
            "trainer": {"checkpoint_dir": folder, "linger_s": 0.0, "num_threads": 1, "checkpoint_interval_s": 1e9},
        }
    )


def impression(request_id: str, time_ms: int, items: Sequence[int]) -> Impression:
    """Return a sound impression."""
    ids, ones = np.array(items, np.int64), np.ones(len(items), np.int32)
    shared = FeatureColumns(1, {"user": SparseColumn(np.array([7]), np.ones(1, np.int32))})
    dense = {"age": np.ones((len(ids), 2), np.float32)}
    candidates = FeatureColumns(len(ids), {"tags": SparseColumn(ids, ones)}, dense)
    scores = np.full((len(ids), 2), 0.5, np.float32)
    return Impression(request_id, time_ms, 7, ids, shared, candidates, scores, ("is_click", "is_like"), "1.2", "live")
