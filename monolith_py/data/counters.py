"""Live counters of fids: their stored form in Kv and their dense feature. The joiner writes, the replica reads.

Letters: T tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monolith_py.config import CounterConfig
from monolith_py.data.columns import FloatArray, Int64Array
from monolith_py.errors import WireError

# Scales the log count towards the rates: log1p(22,000) is 10.
LOG_COUNT_SCALE = 10.0

_STORED = np.dtype("<i8")


def counter_key(feature: str, fid: int) -> str:
    """Return the Kv key of the counter of one fid.

    >>> counter_key("video_id", 7)
    'counter:video_id:7'
    """
    return f"counter:{feature}:{fid}"


def encode_counts(counts: Int64Array) -> bytes:
    """Return the stored form of counts: little-endian int64 (1 + T,), the examples joined, then the positive ones of each task."""
    return counts.astype(_STORED).tobytes()


def decode_counts(value: bytes | None, num_tasks: int) -> Int64Array:
    """Return a stored counter: int64 (1 + T,), zeros for None.

    Raises:
        WireError: the bytes are not a counter of `num_tasks` tasks.
    """
    if value is None:
        return np.zeros(1 + num_tasks, np.int64)
    if len(value) != (1 + num_tasks) * _STORED.itemsize:
        raise WireError(f"counter must have {(1 + num_tasks) * _STORED.itemsize} bytes for {num_tasks} tasks, got {len(value)}")
    return np.frombuffer(value, _STORED).astype(np.int64)


def counter_values(value: bytes | None, config: CounterConfig, num_tasks: int) -> FloatArray:
    """Return the dense feature of one stored counter: float32 (1 + T,), log1p(examples) / 10, then the smoothed rate of each task.

    The rate is (positives + prior_weight * prior_rate) / (examples + prior_weight): the prior rate for a fid never counted.

    >>> counter_values(None, CounterConfig(prior_rate=0.25), num_tasks=1).tolist()
    [0.0, 0.25]

    Raises:
        WireError: the bytes are not a counter of `num_tasks` tasks.
    """
    counts = decode_counts(value, num_tasks).astype(np.float64)
    values: npt.NDArray[np.float64] = np.empty(1 + num_tasks)
    values[0] = np.log1p(counts[0]) / LOG_COUNT_SCALE
    values[1:] = (counts[1:] + config.prior_weight * config.prior_rate) / (counts[0] + config.prior_weight)
    return values.astype(np.float32)
