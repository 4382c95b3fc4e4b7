"""Bounds up to which records may be deleted, by topic and partition.

| topic | kept |
|---|---|
| `impressions`, `actions` | from the place on from which a joiner without its store would read again: of requests that may get actions |
| `examples` | from the oldest checkpoint that is kept on, and from that place on |
| `updates` | from the second newest checkpoint on: a replica may just be loading it |

Of `examples` and `updates` the newest 1,000 records stay as well: a joiner compares its last step with them, a trainer finds its generation
there, and a replica may lag. Records younger than `keep_s` stay in every topic. Without a position of the joiner, or without a checkpoint,
nothing of their topics is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from monolith_py.config import JobConfig
from monolith_py.errors import CheckpointError
from monolith_py.io import Kv, Log
from monolith_py.io.log.topics import Topics
from monolith_py.training import Checkpoint, CheckpointMeta
from monolith_streaming.joiner.position import Position, StateKeys, decode_position

# More than the records of one step of a joiner, and more than replicas lag by.
_TAIL_RECORDS = 1000


@dataclass(frozen=True)
class Bound:
    """Records of one partition: [start, before) may be deleted, [before, end) stay because of `reason`."""

    topic: str
    partition: int
    start: int
    end: int
    before: int
    reason: str

    @property
    def num_deletable(self) -> int:
        """Return the number of offsets that may be deleted."""
        return self.before - self.start


def safe_bounds(job: JobConfig, log: Log, kv: Kv, now_ms: int, keep_s: float | None = None) -> list[Bound]:
    """Return the bound of each partition of impressions, actions, examples and updates.

    `keep_s` replaces that of the job.

    Raises:
        LogError: a topic is missing, or the log cannot be reached.
        KvError: the store cannot be reached.
        WireError: the joiner's position has another version.
    """
    topics = Topics.of(job.log)
    keep_ms = now_ms - round((job.retention.keep_s if keep_s is None else keep_s) * 1000)
    checkpoints = [meta for one in Checkpoint.all_in(Path(job.trainer.checkpoint_dir)) if (meta := _meta(one)) is not None]
    bounds: list[Bound] = []
    for topic in (topics.impressions, topics.actions):
        for partition in range(log.num_partitions(topic)):
            needs = list(_joiner_needs(job, log, kv, topic, partition))
            bounds.append(_bound(log, topic, partition, needs, keep_ms))
    for partition in range(log.num_partitions(topics.examples)):
        needs = [(meta.offsets.get(partition, (0, 0))[0], f"checkpoint of step {meta.step}") for meta in checkpoints]
        position = _position(job, kv, partition)
        if needs and position is not None:
            needs.append((position.progress.open.examples, "requests that may be open"))
        bounds.append(_bound(log, topics.examples, partition, [*_tail(log, topics.examples, partition, needs)], keep_ms))
    newest = sorted(checkpoints, key=lambda meta: meta.step)[-2:]
    needs = [(meta.updates_offset, f"checkpoint of step {meta.step}") for meta in newest]
    bounds.append(_bound(log, topics.updates, 0, [*_tail(log, topics.updates, 0, needs)], keep_ms))
    return bounds


def _position(job: JobConfig, kv: Kv, partition: int) -> Position | None:
    (value,) = kv.get_many([StateKeys(job.name, Topics.of(job.log).examples).position(partition)])
    return None if value is None else decode_position(value)


def _joiner_needs(job: JobConfig, log: Log, kv: Kv, topic: str, partition: int) -> Iterator[tuple[int, str]]:
    settings, position = job.joiner, _position(job, kv, partition)
    if position is None:
        return
    is_impressions = topic == Topics.of(job.log).impressions
    yield position.offsets[0 if is_impressions else 1], "joiner's position"
    yield (position.progress.open.impressions if is_impressions else position.progress.open.actions), "requests that may be open"
    if position.watermark.watermark_ms is None:
        yield 0, "joiner without a watermark"
        return
    remembered_s = settings.window_s + settings.allowed_lateness_s + settings.max_out_of_orderness_s
    oldest_ms = position.watermark.watermark_ms - round(remembered_s * 1000)
    yield log.offset_at(topic, partition, max(oldest_ms, 0)), "requests that may be open"


def _tail(log: Log, topic: str, partition: int, needs: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield from needs
    if needs:
        yield log.end_offset(topic, partition) - _TAIL_RECORDS, f"newest {_TAIL_RECORDS} records"


def _bound(log: Log, topic: str, partition: int, needs: Sequence[tuple[int, str]], keep_ms: int) -> Bound:
    start, end = log.start_offset(topic, partition), log.end_offset(topic, partition)
    if not needs:
        return Bound(topic, partition, start, end, start, "no joiner's position or checkpoint")
    before, reason = min(needs)
    if before > start and (kept := log.offset_at(topic, partition, max(keep_ms, 0))) < before:
        before, reason = kept, "younger than keep_s"
    return Bound(topic, partition, start, end, min(max(before, start), end), reason)


def _meta(checkpoint: Checkpoint) -> CheckpointMeta | None:
    """Return the meta of a checkpoint; None if it is damaged, as nobody can start from it."""
    try:
        return checkpoint.meta
    except CheckpointError:
        return None
