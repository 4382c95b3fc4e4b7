"""Limits of age and size at which a log deletes records by itself, against the needs of the processes.

| topic | needed for |
|---|---|
| `impressions`, `actions` | the time that a request is open or awaits late actions: the joiner's state is built again from them |
| `examples` | the same time, and the age that the oldest checkpoint has: a trainer may go back to it |
| `updates` | the age of the second newest checkpoint |
| `forget_requests` | ever: a trainer reads all of them at each start |

The longest outage to survive comes on top of each; only an operator knows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from monolith_py.config import JobConfig
from monolith_py.errors import TopicMissing
from monolith_py.io import Log
from monolith_py.io.log.topics import Topics
from monolith_streaming.retention.trimming import topic_size

if TYPE_CHECKING:
    from monolith_py.training import CheckpointMeta

_OUTAGE = "plus the longest outage to survive"


def retention_faults(job: JobConfig, log: Log, checkpoints: Sequence[CheckpointMeta], now_ms: int) -> Iterator[str]:
    """Yield a line for each limit of a topic that is below its need, and for each of `checkpoints` whose records are gone.

    Raises:
        LogError: a topic is missing, or the log cannot be reached.
    """
    for topic, (need_s, reason) in _needs(job, checkpoints, now_ms).items():
        info = log.describe(topic)
        if info.retention_ms is not None and info.retention_ms < need_s * 1000:
            rule = f"retention.ms should be -1 or at least {need_s * 1000:.0f} ({reason}), {_OUTAGE}"
            yield f"topic {topic!r}: {rule}, got {info.retention_ms}"
        if info.retention_bytes is not None and (need_bytes := _need_bytes(log, topic, need_s, now_ms)) > info.retention_bytes:
            rule = f"retention.bytes should be -1 or at least {need_bytes} at the present rate ({need_s:.0f} s, {reason}), {_OUTAGE}"
            yield f"topic {topic!r}: {rule}, got {info.retention_bytes}"
    topics = Topics.of(job.log)
    yield from _faults_of_forgetting(log, topics.forget_requests)
    for meta in checkpoints:
        needed = {(topics.examples, partition): offset for partition, (offset, _) in meta.offsets.items()}
        for (topic, partition), offset in {**needed, (topics.updates, 0): meta.updates_offset}.items():
            if partition < log.num_partitions(topic) and (start := log.start_offset(topic, partition)) > offset:
                rule = f"must have its records from {offset} on, for the checkpoint of step {meta.step}"
                yield f"topic {topic!r}[{partition}]: {rule}, got {start}: the records between are lost to it"


def _faults_of_forgetting(log: Log, topic: str) -> Iterator[str]:
    try:
        info = log.describe(topic)
    except TopicMissing:  # a log of before
        return
    for setting, value in (("retention.ms", info.retention_ms), ("retention.bytes", info.retention_bytes)):
        if value is not None:
            yield f"topic {topic!r}: {setting} should be -1, as requests to forget hold for ever, got {value}"


def _needs(job: JobConfig, checkpoints: Sequence[CheckpointMeta], now_ms: int) -> dict[str, tuple[float, str]]:
    """Return the seconds for which the records of each topic are needed, and why."""
    topics, trainer = Topics.of(job.log), job.trainer
    open_s, open_reason = job.joiner.window_s + job.joiner.allowed_lateness_s, "joiner.window_s + joiner.allowed_lateness_s"
    planned = trainer.checkpoints_kept * trainer.checkpoint_interval_s, "trainer.checkpoints_kept x trainer.checkpoint_interval_s"
    ages_s = sorted((now_ms - meta.saved_ms) / 1000 for meta in checkpoints)
    oldest = [(ages_s[-1], "age of the oldest checkpoint")] if ages_s else []
    second = [(ages_s[:2][-1], "age of the second newest checkpoint")] if ages_s else []
    return {
        topics.impressions: (open_s, open_reason),
        topics.actions: (open_s, open_reason),
        topics.examples: max([(open_s, open_reason), planned, *oldest]),
        topics.updates: max([(2 * trainer.checkpoint_interval_s, "2 x trainer.checkpoint_interval_s"), *second]),
    }


def _need_bytes(log: Log, topic: str, need_s: float, now_ms: int) -> int:
    """Return the bytes that the fullest partition gets in `need_s` at the present rate, about; 0 while the rate is unknown."""
    _, num_bytes = topic_size(log, topic)
    counts, spans_s = [], []
    for partition in range(log.num_partitions(topic)):
        start = log.start_offset(topic, partition)
        if oldest := log.read(topic, partition, start, 1):
            counts.append(log.end_offset(topic, partition) - start)
            spans_s.append((now_ms - oldest[0].time_ms) / 1000)
    if num_bytes is None or not counts or max(spans_s) <= 0:
        return 0
    return int(num_bytes * max(counts) / sum(counts) * need_s / max(spans_s))
