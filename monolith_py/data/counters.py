"""Live counters of fids: their keys and stored form in Kv, and their dense feature. The joiner writes, the replica reads.

Letters: T tasks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from monolith_py.config import CounterConfig, JobConfig
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import WireError

# Scales the log count towards the rates: log1p(22,000) is 10.
LOG_COUNT_SCALE = 10.0

# A stored counter has one entry a task, in any order.
_ENTRY = np.dtype([("task", "<i8"), ("examples", "<i8"), ("positives", "<i8")])


@dataclass(frozen=True)
class LiveCounters:
    """Counters of the fids of one job.

    Their keys begin with the job and its topic prefix: another job on the same store counts for itself. Each count names its task: a job
    whose tasks were added, removed or reordered keeps the counts of those that it still has.

    >>> counters = LiveCounters(CounterConfig(prior_rate=0.25), "shop:", ("click",))
    >>> counters.key("video_id", 7)
    'counter:shop::video_id:7'
    >>> counters.values(None).tolist()
    [0.0, 0.25]
    >>> counters.decode(counters.encode(np.array([[10, 4]]))).tolist()
    [[10, 4]]
    """

    config: CounterConfig
    scope: str
    tasks: tuple[str, ...]

    @staticmethod
    def of(job: JobConfig) -> LiveCounters:
        """Return the counters of a job."""
        return LiveCounters(job.counters, f"{job.name}:{job.log.topic_prefix}", tuple(name for task in job.tasks for name in task.outputs))

    def key(self, feature: str, fid: int) -> str:
        """Return the Kv key of the counter of one fid."""
        return f"counter:{self.scope}:{feature}:{fid}"

    def encode(self, counts: Int64Array) -> bytes:
        """Return the stored form of counts int64 (T, 2): the examples joined for each task, and the positive ones among them.

        Three little-endian int64 a task: the id of its name, the examples, the positives.
        """
        entries = np.empty(len(self.tasks), _ENTRY)
        entries["task"] = [_task_id(task) for task in self.tasks]
        entries["examples"], entries["positives"] = counts[:, 0], counts[:, 1]
        return entries.tobytes()

    def decode(self, value: bytes | None) -> Int64Array:
        """Return a stored counter: int64 (T, 2), zeros for None and for a task that it does not have.

        Raises:
            WireError: the bytes are no counter.
        """
        counts = np.zeros((len(self.tasks), 2), np.int64)
        if value is None:
            return counts
        if len(value) % _ENTRY.itemsize:
            raise WireError(f"counter must have {_ENTRY.itemsize} bytes a task, got {len(value)}")
        found = {task: (examples, positives) for task, examples, positives in np.frombuffer(value, _ENTRY).tolist()}
        for index, task in enumerate(self.tasks):
            counts[index] = found.get(_task_id(task), (0, 0))
        return counts

    def values(self, value: bytes | None) -> FloatArray:
        """Return the dense feature of one stored counter: float32 (1 + T,), log1p(examples) / 10, then the smoothed rate of each task.

        The rate is (positives + prior_weight * prior_rate) / (examples + prior_weight): the prior rate for a fid never counted.

        Raises:
            WireError: the bytes are no counter.
        """
        examples, positives = self.decode(value).astype(np.float64).T  # (T,) each
        weight = self.config.prior_weight
        rates = (positives + weight * self.config.prior_rate) / (examples + weight)
        return np.concatenate([[np.log1p(examples.max()) / LOG_COUNT_SCALE], rates]).astype(np.float32)


def _task_id(task: str) -> int:
    """Return the id of a task's name."""
    return int.from_bytes(hashlib.blake2b(task.encode(), digest_size=8).digest(), "little", signed=True)
